"""Directories that are either whole or not there: what every kind of checkpoint is written and read with.

A directory is written under a temporary name, each file is flushed to the disk, a manifest of sizes and hashes is
added, and the directory is renamed: whatever kills the process, one that has its final name was finished. On reading,
one that does not match its manifest is named and passed over for the one before.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch.distributed.tensor import DTensor

MANIFEST = "manifest.json"
TEMPORARY = ".unfinished-"
TORCH_WRITER = "inline_container"  # the file of torch that names itself in whatever goes wrong as it writes


def seal(temporary: Path, final: Path) -> None:
    """Flush and hash every file of `temporary`, and give it the name `final`, whatever had it before."""
    files = {str(p.relative_to(temporary)): p for p in sorted(temporary.rglob("*")) if p.is_file()}
    with ThreadPoolExecutor() as pool:  # one file is read while another one is on its way to the disk
        hashes = pool.map(file_hash, files.values())
        list(pool.map(_sync, temporary.rglob("*")))
        entries = {
            name: {"size": p.stat().st_size, "sha256": h} for (name, p), h in zip(files.items(), hashes, strict=True)
        }
    (temporary / MANIFEST).write_text(json.dumps(entries, indent=1), encoding="utf-8")
    _sync(temporary / MANIFEST)
    _sync(temporary)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    _sync(final.parent)


def damage(path: Path) -> str | None:
    """What is wrong with a sealed directory; None if nothing is."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        expected = {name: (entry["size"], entry["sha256"]) for name, entry in manifest.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"no readable {MANIFEST}"
    for name, (size, _) in expected.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes in place of {size}"
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(lambda name: file_hash(path / name), expected)
        differing = (name for name, digest in zip(expected, hashes, strict=True) if digest != expected[name][1])
        name = next(differing, None)
    return name and f"{name} does not match its hash"


def numbered(root: Path, prefix: str) -> list[Path]:
    """Every finished directory `PREFIX NUMBER`, by number; a copy under another name, `step-100-best`, is none."""
    numbers = {p: p.name.removeprefix(prefix) for p in root.glob(f"{prefix}*") if p.is_dir()}
    return sorted((p for p, number in numbers.items() if number.isdecimal()), key=lambda p: int(numbers[p]))


def newest_whole(root: Path, prefix: str) -> Path | None:
    """The directory with the highest number that is intact; a warning names each damaged one above it."""
    for path in reversed(numbered(root, prefix)):
        fault = damage(path)
        if fault is None:
            return path
        warnings.warn(f"checkpoint {path} is damaged ({fault}); trying the one before", stacklevel=3)
    return None


def remove_unfinished(root: Path) -> None:
    """The directories that killed processes have left; small files of that name are `write_whole`'s."""
    for leftover in root.glob(f"{TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)


def remove_behind(root: Path, prefix: str, latest: Path) -> list[Path]:
    """Delete what has a higher number than the one just written, damaged ones that a run went back behind; the rest."""
    found = numbered(root, prefix)
    now = found.index(latest)
    for path in found[now + 1 :]:
        shutil.rmtree(path)
    return found[: now + 1]


@contextmanager
def replacing(directory: Path, is_main: bool = True) -> Iterator[Path]:
    """A folder whose files take the places of those in `directory` once all of them are there.

    Several processes may write into it; the main one makes it and moves the files, while the others wait elsewhere.

    Raises:
        OSError: the disk is full; `directory` is as it was.
    """
    folder = directory / f"{TEMPORARY}model"
    try:
        if is_main:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        yield folder
        if is_main:
            _move_into(folder, directory)
    except (SafetensorError, RuntimeError) as error:
        if (written := as_os_error(error)) is None:
            raise
        raise written from error
    finally:
        if is_main:
            shutil.rmtree(folder, ignore_errors=True)


def _move_into(folder: Path, directory: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        _sync(path)
    for path in files:
        target = directory / path.relative_to(folder)
        target.parent.mkdir(exist_ok=True)
        path.replace(target)


def not_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The name of the first tensor with a NaN or an infinity in it, of this process's part of each."""
    for name, tensor in tensors:
        part = tensor.detach().to_local() if isinstance(tensor, DTensor) else tensor.detach()
        if part.is_floating_point() and not part.isfinite().all():
            return name
    return None


def as_os_error(error: Exception) -> OSError | None:
    """What a write that failed comes to; None for an error of another kind.

    safetensors puts the number of the system's error into its text, `I/O error: ... (os error 28)`; torch.save has a
    RuntimeError without one.
    """
    if isinstance(error, OSError):
        return error
    if isinstance(error, SafetensorError):
        number = re.search(r"os error (\d+)", str(error))
        return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(errno.EIO, str(error))
    if isinstance(error, RuntimeError) and TORCH_WRITER in str(error):
        return OSError(errno.EIO, "a file could not be written to its end; is the disk full?")
    return None


def file_hash(path: Path) -> str:
    """SHA-256 of its content, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
