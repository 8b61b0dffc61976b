"""Checkpoints of pretraining, and which of them are kept.

A checkpoint is a directory `step-00000100` of safetensors and JSON files, whole or not there (`sealing.py`). Nothing is
pickled. Weights that are not finite are not saved: they would push out the ones that a run can go on from.

What is spread over several processes is put together one tensor at a time and written by the main process, in files of
a few gigabytes: a checkpoint does not know how many processes wrote it, nor how they shared the work.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .parallel import whole
from .sealing import TEMPORARY, as_os_error, newest_whole, not_finite, numbered, remove_behind, remove_unfinished, seal

STATE = "state.json"
PREFIX = "step-"
WEIGHTS = ("model", "average")  # parts in which nothing but numbers may be
FILE_BYTES = 4 * 2**30  # what the main process holds at once while it writes

Parts = Mapping[str, Mapping[str, torch.Tensor]]


class NotFiniteError(ValueError):
    """A weight is a NaN or infinite."""


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
        NotFiniteError: there too, and they are.
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
            self.error = as_os_error(error)

    def write(self, part: str, tensors: Mapping[str, torch.Tensor]) -> None:
        held, size, number = {}, 0, 0
        for name, tensor in tensors.items():
            tensor = whole(tensor).detach()
            if held and size + tensor.nbytes > FILE_BYTES:
                self._flush(part, number, held)
                held, size, number = {}, 0, number + 1
            held[name] = tensor.cpu().contiguous()
            if part in WEIGHTS and not_finite([(name, held[name])]):
                self.error = self.error or NotFiniteError(f"{name} has a value that is not finite, and is not saved")
            size += tensor.nbytes
        self._flush(part, number, held)

    def _flush(self, part: str, number: int, held: dict) -> None:
        self.attempt(lambda: save_file(held, self.directory / f"{part}.{number:05d}.safetensors"))


def _make_empty(root: Path, temporary: Path) -> None:
    remove_unfinished(root)
    temporary.mkdir(parents=True)


def _finish(temporary: Path, final: Path, state: dict) -> None:
    (temporary / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    seal(temporary, final)


def _prune(root: Path, latest: Path, retention: Retention) -> None:
    found = remove_behind(root, PREFIX, latest)
    kept = {*found[-retention.newest :], *(p for p in found if retention.protects(_step(p)))}
    if retention.metric is not None and (best := best_checkpoint(root, retention.metric)):
        kept.add(best)
    for path in found:
        if path not in kept:
            shutil.rmtree(path)


def best_checkpoint(root: Path, metric: str) -> Path | None:
    """The checkpoint with the lowest value of the metric; the later one of two that are equal."""
    values = {path: read_state(path).get("metrics", {}).get(metric) for path in numbered(root, PREFIX)}
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


def newest_checkpoint(root: Path) -> Path | None:
    """The newest intact checkpoint; a warning names each damaged one that is newer."""
    return newest_whole(root, PREFIX)


def _step(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))
