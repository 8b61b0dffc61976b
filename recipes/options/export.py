"""Options of `rhapsode export`."""

from dataclasses import dataclass

from .base import option
from .output import check_license, check_shard_size


@dataclass
class ExportOptions:
    """Write a self-contained Hub repository: weights in safetensors, configuration, model code, tokenizer and card.
    It opens with AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True), or the Auto class of its head,
    where Rhapsode is not installed."""

    EXAMPLES = ("rhapsode export --model runs/mine --output_dir exports/mine --name owner/mine --license apache-2.0",)

    model: str = option("runs/pretrain", "run directory, model directory or Hub id")
    output_dir: str = option("exports/model", "new directory for the repository")
    tokenizer: str | None = option(None, "directory or Hub id of another tokenizer; none is the model's")
    revision: str | None = option(None, "branch, tag or commit of a Hub id; none is main")
    dtype: str = option("auto", "number format of the weights", ("auto", "float32", "bfloat16", "float16"))
    max_shard_size: str = option("5GB", "size of one weight file")
    name: str | None = option(None, "what the card calls it, such as owner/name; none is the directory's name")
    license: str | None = option(None, "the Hub's name of the weights' license, such as apache-2.0; none says nothing")

    def __post_init__(self):
        check_shard_size(self.max_shard_size)
        check_license(self.license)
