"""What a run has learned from, so that one that is resumed goes on with the same.

A file that has become shorter gives other rows at the same numbers; another model under the same name is another base
of an adapter, another reference or another judge: both end in weights that no run without a break would have. (A model
that is trained whole is read from the checkpoint; but a run has one beginning, and its card names it.)
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset
from huggingface_hub import try_to_load_from_cache

from ..training.sealing import file_hash
from .reward_functions import names_model

BATCH = 1000  # rows that are read at once
MODELS = ("model", "teacher", "reward_model", "reward_funcs")  # options that name them
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"


def identity(job, trainer) -> dict[str, dict]:
    """By name what `WholeCheckpoints.identity` holds; reads every file that it counts."""
    found = {"rows of --dataset": _rows(job.train)}
    if (text := getattr(trainer, "pretraining", None)) is not None:
        found["rows of --pretraining_dataset"] = _rows(text.dataset)
    for name in MODELS:
        named = getattr(job.options, name, None) or []
        sources = [named] if isinstance(named, str) else [spec for spec in named if names_model(spec)]
        if files := [path for source in sources for path in model_files(source)]:
            found[f"files of --{name}"] = _content(files)
    return found


def model_files(source: str) -> Iterator[Path]:
    """Configuration and weights of a directory, or of a Hub id's in the cache; of an adapter, and of its base."""
    directory = _directory(source)
    if directory is None:
        return
    config = directory / ADAPTER_CONFIG
    if config.exists():
        yield from (path for path in (config, directory / ADAPTER) if path.exists())
        if base := json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path"):
            yield from model_files(base)
        return
    index = directory / INDEX
    parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.exists() else {WEIGHTS}
    yield from (path for path in (directory / name for name in (CONFIG, *sorted(parts))) if path.exists())


def _directory(source: str) -> Path | None:
    if Path(source).is_dir():
        return Path(source)
    cached = (try_to_load_from_cache(source, name) for name in (ADAPTER_CONFIG, CONFIG))
    return next((Path(path).parent for path in cached if isinstance(path, str)), None)


def _rows(rows: Dataset) -> dict[str, int | str]:
    """Of the values and not of the file, which may lie elsewhere or be written otherwise."""
    found = hashlib.sha256()
    for batch in rows.with_format(None).iter(BATCH):
        found.update(json.dumps(batch, sort_keys=True, default=repr).encode("utf-8", "surrogatepass"))
    return {"count": len(rows), "sha256": found.hexdigest()[:32]}


def _content(files: list[Path]) -> dict[str, int | str]:
    """Wherever they lie."""
    found = hashlib.sha256()
    for path in files:
        found.update(bytes.fromhex(file_hash(path)))
    return {"count": len(files), "sha256": found.hexdigest()[:32]}
