"""A self-contained Hub repository: weights, configuration, the code of the model, tokenizer and model card.

It opens by `AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)` where Rhapsode is not installed.
"""

import shutil
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .card import model_card


def export(
    model_or_dir: PreTrainedModel | str | Path,
    directory: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    dtype: str = "auto",
) -> Path:
    """Write the repository and return its path; it is complete or, after an error, not there.

    Args:
        model_or_dir: a model, or a directory or Hub id of one; a run directory also gives the card its figures.
        directory: a directory that does not exist yet, or is empty.
        tokenizer: goes with it; with a directory or id, that one's own where `None`.
        dtype: `auto` keeps the number format, else `float32`, `bfloat16` or `float16`.

    Raises:
        ValueError: the directory holds something, or there is no model in `model_or_dir`.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} is not empty; export into a new directory")
    run = None
    if isinstance(model_or_dir, PreTrainedModel):
        model = model_or_dir if dtype == "auto" else model_or_dir.to(dtype=dtype)
    else:
        run = Path(model_or_dir)
        model, tokenizer = _open(model_or_dir, tokenizer, dtype)
    temporary = directory.with_name(f".unfinished-{directory.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        if run is not None and (run / "curves.png").is_file():
            shutil.copyfile(run / "curves.png", temporary / "curves.png")
        (temporary / "README.md").write_text(model_card(model, directory.name, run), encoding="utf-8")
        if directory.exists():
            directory.rmdir()
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return directory


def _open(source: str | Path, tokenizer, dtype: str):
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
        return model, tokenizer or AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"{source} cannot be opened as a model with its tokenizer: {first}") from error
