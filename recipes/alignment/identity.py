"""What a run has learned from, so that one that is resumed goes on with the same.

A file that has become shorter gives other rows at the same numbers, and other weights of `--model` are another
reference and another base of an adapter: both end in weights that no run without a break would have.
"""

import hashlib
import json
from pathlib import Path

from datasets import Dataset
from huggingface_hub import try_to_load_from_cache

BATCH = 1000  # rows that are read at once
MODELS = ("model", "teacher", "reward_model", "value_model")  # options that name one, or a word of their own


def identity(job, trainer) -> dict[str, dict]:
    """By name what `WholeCheckpoints.identity` holds; every file of weights is read once."""
    found = {"rows of --dataset": _rows(job.train)}
    if (text := getattr(trainer, "pretraining", None)) is not None:
        found["rows of --pretraining_dataset"] = _rows(text.dataset)
    for name in MODELS:
        if weights := _weights(getattr(job.options, name, None)):
            found[f"weights of --{name}"] = weights
    return found


def _rows(rows: Dataset) -> dict[str, int | str]:
    """Of the values and not of the file, which may lie elsewhere or be written otherwise."""
    found = hashlib.sha256()
    for batch in rows.with_format(None).iter(BATCH):
        found.update(json.dumps(batch, sort_keys=True, default=repr).encode("utf-8", "surrogatepass"))
    return {"count": len(rows), "sha256": found.hexdigest()[:32]}


def _weights(source: str | None) -> dict[str, int | str] | None:
    """Of the files in a directory, wherever it lies; of a model on the Hub those that were loaded from its cache."""
    if source is None:
        return None
    directory = Path(source)
    if not directory.is_dir():
        config = try_to_load_from_cache(source, "config.json")
        if not isinstance(config, str):
            return None
        directory = Path(config).parent
    found, files = hashlib.sha256(), sorted(directory.glob("*.safetensors"))
    for path in files:
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return {"files": len(files), "sha256": found.hexdigest()[:32]} if files else None
