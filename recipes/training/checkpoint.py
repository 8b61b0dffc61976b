"""Checkpoints that are either whole or not there.

A checkpoint is a directory `step-00000100` of safetensors and JSON files. It is written under a temporary name, each
file is flushed to the disk, a manifest of sizes and hashes is added, and the directory is renamed: whatever kills the
process, the newest checkpoint that has its final name was finished. On reading, a checkpoint that does not match its
manifest is named and passed over for the one before. Nothing is pickled.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model

MANIFEST = "manifest.json"
PREFIX, TEMPORARY = "step-", ".unfinished-"


def save_checkpoint(root: Path, step: int, model, optimizers, state: dict, keep: int) -> Path:
    """Write `step`, then delete all but the newest `keep` checkpoints. `state` is anything that JSON holds.

    Raises:
        OSError: the disk is full or not writable; earlier checkpoints are untouched.
    """
    final, temporary = root / f"{PREFIX}{step:08d}", root / f"{TEMPORARY}{step:08d}"
    for leftover in root.glob(f"{TEMPORARY}*"):
        shutil.rmtree(leftover)
    temporary.mkdir(parents=True)
    try:
        _write(temporary, model, optimizers, state)
        _sync(temporary)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        _sync(root)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, SafetensorError):
            raise _as_os_error(error) from error
        raise
    found = _found(root)
    now = found.index(final)
    for other in found[: max(0, now + 1 - keep)] + found[now + 1 :]:  # later ones: damaged, and gone back behind
        shutil.rmtree(other)
    return final


def _as_os_error(error: SafetensorError) -> OSError:
    """safetensors puts the number of the system's error into its text: `I/O error: ... (os error 28)`."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(5, str(error))


def _write(directory: Path, model, optimizers, state: dict) -> None:
    save_model(model, str(directory / "model.safetensors"))
    for i, optimizer in enumerate(optimizers):
        tensors, rest = _flatten(optimizer.state_dict())
        save_file(tensors, directory / f"optimizer-{i}.safetensors")
        (directory / f"optimizer-{i}.json").write_text(json.dumps(rest))
    save_file(_random_states(), directory / "random.safetensors")
    (directory / "state.json").write_text(json.dumps(state, indent=1))
    files = {path.name: {"size": path.stat().st_size, "sha256": _hash(path)} for path in sorted(directory.iterdir())}
    (directory / MANIFEST).write_text(json.dumps(files, indent=1))
    for path in directory.iterdir():
        _sync(path)


def newest_checkpoint(root: Path) -> Path | None:
    """The newest intact checkpoint; a warning names each damaged one that is newer."""
    for path in reversed(_found(root)):
        damage = _damage(path)
        if damage is None:
            return path
        warnings.warn(f"checkpoint {path} is damaged ({damage}); trying the one before", stacklevel=2)
    return None


def load_checkpoint(path: Path, model, optimizers) -> dict:
    """Put weights, optimizer and random states back; returns the `state` that was saved."""
    load_model(model, str(path / "model.safetensors"))
    for i, optimizer in enumerate(optimizers):
        rest = json.loads((path / f"optimizer-{i}.json").read_text())
        optimizer.load_state_dict(_unflatten(load_file(path / f"optimizer-{i}.safetensors"), rest))
    random_states = load_file(path / "random.safetensors")
    torch.set_rng_state(random_states["cpu"])
    if torch.cuda.is_available() and "cuda" in random_states:
        torch.cuda.set_rng_state(random_states["cuda"])
    return json.loads((path / "state.json").read_text())


def _found(root: Path) -> list[Path]:
    """Every finished checkpoint, oldest first; a copy under another name, `step-00000100-best`, is none of ours."""
    steps = {p: p.name.removeprefix(PREFIX) for p in root.glob(f"{PREFIX}*") if p.is_dir()}
    return sorted((p for p, step in steps.items() if step.isdecimal()), key=lambda p: int(steps[p]))


def _damage(path: Path) -> str | None:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        expected = {name: (entry["size"], entry["sha256"]) for name, entry in manifest.items()}
    except (OSError, ValueError, KeyError):
        return f"no readable {MANIFEST}"
    for name, (size, digest) in expected.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes in place of {size}"
        if _hash(file) != digest:
            return f"{name} does not match its hash"
    return None


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _random_states() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _flatten(state_dict: dict) -> tuple[dict[str, torch.Tensor], dict]:
    """Split an optimizer's state into tensors by name, `index.key`, and what JSON holds."""
    tensors, rest = {}, {"state": {}, "param_groups": state_dict["param_groups"]}
    for index, entries in state_dict["state"].items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{key}"] = value.contiguous()
            else:
                rest["state"].setdefault(str(index), {})[key] = value
    return tensors, rest


def _unflatten(tensors: dict[str, torch.Tensor], rest: dict) -> dict:
    state = {int(index): dict(entries) for index, entries in rest["state"].items()}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": rest["param_groups"]}
