"""What a run has learned from, so that one that is resumed goes on with the same.

A file that has become shorter gives other rows at the same numbers: weights that no run without a break would have.
"""

import hashlib
import json

from datasets import Dataset

BATCH = 1000  # rows that are read at once


def identity(job, trainer) -> dict[str, dict]:
    """By name what `WholeCheckpoints.identity` holds."""
    found = {"rows of --dataset": _digest(job.train)}
    if (text := getattr(trainer, "pretraining", None)) is not None:
        found["rows of --pretraining_dataset"] = _digest(text.dataset)
    return found


def _digest(rows: Dataset) -> dict[str, int | str]:
    """Of the values and not of the file, which may lie elsewhere or be written otherwise."""
    found = hashlib.sha256()
    for batch in rows.with_format(None).iter(BATCH):
        found.update(json.dumps(batch, sort_keys=True, default=repr).encode("utf-8", "surrogatepass"))
    return {"count": len(rows), "sha256": found.hexdigest()[:32]}
