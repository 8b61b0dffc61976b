"""Options of `rhapsode convert`."""

from dataclasses import dataclass

from .base import option
from .output import check_shard_size


@dataclass
class ConvertOptions:
    """Open a checkpoint of another family (llama, mistral, qwen, olmo, gemma, falcon, gpt2, ...) as a Rhapsode model,
    or write a Rhapsode model as one, or, with --to FILE.gguf, for llama.cpp. What the other side cannot represent
    exactly is refused by name."""

    EXAMPLES = (
        "rhapsode convert --list",
        "rhapsode convert --from Qwen/Qwen3-0.6B --to runs/qwen",
        "rhapsode convert --from runs/mine --to exports/llama --to_family llama",
        "rhapsode convert --from runs/mine --to model.gguf",
    )

    source: str | None = option(
        None, "directory or Hub id of any family's checkpoint, or of a Rhapsode model", flag="--from"
    )
    output_dir: str | None = option(None, "new directory to write, or FILE.gguf", flag="--to")
    to_family: str = option(
        "rhapsode", "family to write: a model type such as llama, olmo2, falcon, gpt2; of a GGUF file, rhapsode is any"
    )
    dtype: str = option("auto", "number format of the weights", ("auto", "float32", "bfloat16", "float16"))
    max_shard_size: str = option("5GB", "size of one weight file; a GGUF file is always one")
    dataset: list[str] = option(["stdlib"], "texts by which llama.cpp's way of cutting words is chosen, for GGUF alone")
    text_column: str = option("text", "column or field of tables that holds the text")
    list: bool = option(False, "print the families and stop")

    def __post_init__(self):
        check_shard_size(self.max_shard_size)
