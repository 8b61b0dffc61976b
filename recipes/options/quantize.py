"""Options of `rhapsode quantize`."""

from dataclasses import dataclass

from .base import UserError, check_positive, option


@dataclass
class QuantizeOptions:
    """Write a model with int8 or int4 weights, by torchao, and say what that costs in bits per byte. The matrices of
    the blocks are quantized, products are computed in --dtype; embeddings, head and norms stay as they are.
    AutoModelForCausalLM.from_pretrained opens the directory where torchao is installed."""

    EXAMPLES = ("rhapsode quantize --model runs/mine --weights int8 --output_dir runs/int8",)

    model: str = option("runs/pretrain", "directory or Hub id", section="what is written")
    output_dir: str | None = option(None, "new directory to write")
    weights: str = option(
        "int8", "int8 with a scale for each row, or int4 with one for each --group_size", ("int8", "int4")
    )
    group_size: int = option(32, "neighbouring weights of a row that share a scale; int4 alone")
    dtype: str = option("auto", "number format of the rest", ("auto", "float32", "bfloat16"))
    dataset: list[str] = option(
        ["stdlib"],
        "held-out text that both are measured on: stdlib, files, globs or Hub ids",
        section="what it costs, on held-out text",
    )
    text_column: str = option("text", "column or field of tables that holds the text")
    split: str = option("validation", "part of the data; all takes every document", ("train", "validation", "all"))
    max_documents: int | None = option(None, "measure only the first so many documents; none is all")
    max_length: int | None = option(None, "window in tokens; none is the model's longest, at most 2048")
    batch_size: int = option(8, "windows in one forward pass")
    json: bool = option(False, "print one JSON object")

    def __post_init__(self):
        check_positive(self, "group_size", "max_documents", "batch_size")
        if self.max_length is not None and self.max_length < 2:
            raise UserError(f"--max_length {self.max_length} leaves nothing to predict; use 2 or more")
