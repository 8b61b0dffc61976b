"""Checkpoints that are either whole or not there, and which of them are kept.

A checkpoint is a directory `step-00000100` of safetensors and JSON files. It is written under a temporary name, each
file is flushed to the disk, a manifest of sizes and hashes is added, and the directory is renamed: whatever kills the
process, the newest checkpoint that has its final name was finished. On reading, a checkpoint that does not match its
manifest is named and passed over for the one before. Nothing is pickled.

What is spread over several processes is put together one tensor at a time and written by the main process, in files of
a few gigabytes: a checkpoint does not know how many processes wrote it, nor how they shared the work.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .parallel import whole

MANIFEST, STATE = "manifest.json", "state.json"
PREFIX, TEMPORARY = "step-", ".unfinished-"
FILE_BYTES = 4 * 2**30  # what the main process holds at once while it writes

Parts = Mapping[str, Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Retention:
    """Kept are the newest ones, the one with the lowest `metric`, and those at multiples of `milestone_steps`."""

    newest: int = 2
    metric: str | None = None
    milestone_steps: int | None = None

    def protects(self, step: int) -> bool:
        return self.milestone_steps is not None and step % self.milestone_steps == 0


def save_checkpoint(
    root: Path, step: int, parts: Parts, state: dict, retention: Retention = Retention(), is_main: bool = True
) -> Path:
    """Write the tensors of each part and `state`, which JSON holds; then delete what need not be kept.

    Every process calls it, with `is_main` true on one. `state["metrics"]` has the metric that the retention goes by.

    Raises:
        OSError: on the main process, the disk is full or not writable; earlier checkpoints are untouched.
    """
    final, temporary = root / f"{PREFIX}{step:08d}", root / f"{TEMPORARY}{step:08d}"
    if not is_main:
        for tensors in parts.values():
            for tensor in tensors.values():
                whole(tensor)  # the main process asks for it at the same moment
        return final
    writer = _Writer(temporary)
    try:
        writer.attempt(lambda: _make_empty(root, temporary))
        for part, tensors in parts.items():
            writer.write(part, tensors)
        writer.attempt(lambda: _finish(temporary, final, state))
        if writer.error is not None:
            raise writer.error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _prune(root, final, retention)
    return final


class _Writer:
    """Goes on asking for tensors after the first error, since the other processes do: it is raised in the end."""

    def __init__(self, directory: Path):
        self.directory, self.error = directory, None

    def attempt(self, work: Callable[[], None]) -> None:
        if self.error is not None:
            return
        try:
            work()
        except OSError as error:
            self.error = error
        except SafetensorError as error:
            self.error = _as_os_error(error)

    def write(self, part: str, tensors: Mapping[str, torch.Tensor]) -> None:
        held, size, number = {}, 0, 0
        for name, tensor in tensors.items():
            tensor = whole(tensor).detach()
            if held and size + tensor.nbytes > FILE_BYTES:
                self._flush(part, number, held)
                held, size, number = {}, 0, number + 1
            held[name] = tensor.cpu().contiguous()
            size += tensor.nbytes
        self._flush(part, number, held)

    def _flush(self, part: str, number: int, held: dict) -> None:
        self.attempt(lambda: save_file(held, self.directory / f"{part}.{number:05d}.safetensors"))


def _make_empty(root: Path, temporary: Path) -> None:
    for leftover in root.glob(f"{TEMPORARY}*"):
        shutil.rmtree(leftover)
    temporary.mkdir(parents=True)


def _finish(temporary: Path, final: Path, state: dict) -> None:
    (temporary / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    files = {p.name: {"size": p.stat().st_size, "sha256": _hash(p)} for p in sorted(temporary.iterdir())}
    (temporary / MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")
    for path in [*temporary.iterdir(), temporary]:
        _sync(path)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    _sync(final.parent)


def _prune(root: Path, latest: Path, retention: Retention) -> None:
    found = _found(root)
    now = found.index(latest)
    for path in found[now + 1 :]:  # damaged ones, and gone back behind
        shutil.rmtree(path)
    found = found[: now + 1]
    kept = {*found[-retention.newest :], *(p for p in found if retention.protects(_step(p)))}
    if retention.metric is not None and (best := best_checkpoint(root, retention.metric)):
        kept.add(best)
    for path in found:
        if path not in kept:
            shutil.rmtree(path)


def best_checkpoint(root: Path, metric: str) -> Path | None:
    """The checkpoint with the lowest value of the metric; the later one of two that are equal."""
    values = {path: read_state(path).get("metrics", {}).get(metric) for path in _found(root)}
    known = [path for path, value in values.items() if value is not None]
    return min(reversed(known), key=values.get, default=None)


def read_state(path: Path) -> dict:
    """What `save_checkpoint` was given as `state`; empty where it cannot be read."""
    try:
        return json.loads((path / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def read_part(path: Path, part: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The whole tensors of a part by name, one at a time, from mapped files."""
    for file in sorted(path.glob(f"{part}.*.safetensors")):
        with safe_open(file, framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118 (not a dictionary)
                yield name, stream.get_tensor(name)


def _as_os_error(error: SafetensorError) -> OSError:
    """safetensors puts the number of the system's error into its text: `I/O error: ... (os error 28)`."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(5, str(error))


def newest_checkpoint(root: Path) -> Path | None:
    """The newest intact checkpoint; a warning names each damaged one that is newer."""
    for path in reversed(_found(root)):
        damage = _damage(path)
        if damage is None:
            return path
        warnings.warn(f"checkpoint {path} is damaged ({damage}); trying the one before", stacklevel=2)
    return None


def _step(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))


def _found(root: Path) -> list[Path]:
    """Every finished checkpoint, oldest first; a copy under another name, `step-00000100-best`, is none of ours."""
    steps = {p: p.name.removeprefix(PREFIX) for p in root.glob(f"{PREFIX}*") if p.is_dir()}
    return sorted((p for p, step in steps.items() if step.isdecimal()), key=_step)


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
