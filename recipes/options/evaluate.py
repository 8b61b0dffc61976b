"""Options of `rhapsode evaluate`."""

from dataclasses import dataclass

from .base import UserError, option


@dataclass
class EvaluateOptions:
    """Perplexity and bits per byte of any causal language model on held-out text, every token counted once."""

    model: str = option("runs/pretrain", "directory or Hub id")
    dataset: list[str] = option(["stdlib"], "stdlib, files, directories, globs or Hub ids")
    text_column: str = option("text", "column or field of tables that holds the text")
    split: str = option("validation", "part of the data; all takes every document", ("train", "validation", "all"))
    max_length: int | None = option(None, "window in tokens; none is the model's longest, at most 2048")
    stride: int | None = option(None, "tokens by which the window moves; none is half of it")
    batch_size: int = option(8, "windows in one forward pass")
    max_documents: int | None = option(None, "score only the first so many documents; none is all")
    bf16: bool = option(False, "bfloat16 autocast")
    json: bool = option(False, "print one JSON object")
    trust_remote_code: bool = option(False, "run the model code that the directory or repository brings")

    def __post_init__(self):
        for name in ("max_length", "stride", "batch_size", "max_documents"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} {value} must be above 0")
        if self.max_length == 1:
            raise UserError("--max_length 1 leaves nothing to predict; use 2 or more")
