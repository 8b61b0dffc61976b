"""Options of `rhapsode export`."""

from dataclasses import dataclass

from .base import option


@dataclass
class ExportOptions:
    """Write a self-contained Hub repository: weights in safetensors, configuration, model code, tokenizer and card.
    It opens with AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True) where Rhapsode is not installed."""

    model: str = option("runs/pretrain", "run directory, model directory or Hub id")
    output_dir: str = option("exports/model", "new directory for the repository")
    dtype: str = option("auto", "number format of the weights", ("auto", "float32", "bfloat16", "float16"))
