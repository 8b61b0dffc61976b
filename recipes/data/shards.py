"""Token ids on disk: directories of plain numpy arrays that are mapped into memory, not read.

    CACHE/KEY/index.json                  format, number of documents, tokens and bytes of each shard
    CACHE/KEY/00000/ids.npy               uint16, or uint32 for a vocabulary above 65,536
    CACHE/KEY/00000/starts.npy            int64: where each document begins
    CACHE/KEY/00000/num_bytes.npy         int64: bytes of text of each document
    CACHE/KEY/best_fit-2048/00000/*.npy   the plan of the rows of 2048 tokens, see `packing`

A directory of arrays is written under a temporary name, synced and renamed: it is there as a whole or not at all.
"""

import json
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..options.base import UserError
from .packing import Plan, plan_best_fit
from .tokens import TokenStream

INDEX = "index.json"
UNFINISHED = "unfinished-"
MAPPED = 2**27  # bytes that rows may bring into memory before the maps are let go
FAULT = 2**21  # bytes that the kernel may map around an address that is read: a huge page


class OpenMaps:
    """Arrays mapped from files, opened at need.

    The kernel counts a mapped page as the process's from the moment it is read: reading all rows would seem to take as
    much memory as there are tokens. So the pages are let go each time that `MAPPED` bytes may have been read.
    """

    def __init__(self):
        self.arrays: dict[Path, np.ndarray] = {}
        self.read = 0

    def __getitem__(self, path: Path) -> np.ndarray:
        if path not in self.arrays:
            self.arrays[path] = np.load(path, mmap_mode="r").view(np.ndarray)
        return self.arrays[path]

    def count(self, size: int) -> None:
        self.read += size + FAULT
        if self.read > MAPPED:
            self.let_go()

    def let_go(self) -> None:
        if hasattr(mmap, "MADV_DONTNEED"):
            for array in self.arrays.values():
                array.base.base.madvise(mmap.MADV_DONTNEED)  # of the memmap that the array is a view of
        else:  # Windows: they are opened again
            self.arrays = {}
        self.read = 0


class Shard(TokenStream):
    """A `TokenStream` on disk."""

    def __init__(self, directory: Path, sizes: dict[str, int], maps: OpenMaps):
        self.directory, self.sizes, self.maps = directory, sizes, maps

    ids = property(lambda self: self.maps[self.directory / "ids.npy"])
    starts = property(lambda self: self.maps[self.directory / "starts.npy"])
    num_bytes = property(lambda self: self.maps[self.directory / "num_bytes.npy"])

    @property
    def num_tokens(self) -> int:
        return self.sizes["tokens"]

    def read(self, begin: int, end: int) -> np.ndarray:
        ids = super().read(begin, end)
        self.maps.count(ids.nbytes)
        return ids

    def check(self) -> None:
        """Raises ValueError or OSError if the files are not what the index says."""
        found = {"documents": len(self.starts), "tokens": len(self.ids), "bytes": int(self.num_bytes.sum())}
        if found != self.sizes:
            raise ValueError(f"{found} in place of {self.sizes}")


class MappedPlan:
    """A `Plan` on disk."""

    def __init__(self, directory: Path, maps: OpenMaps):
        self.directory, self.maps = directory, maps

    begins = property(lambda self: self.maps[self.directory / "begins.npy"])
    lengths = property(lambda self: self.maps[self.directory / "lengths.npy"])
    rows = property(lambda self: self.maps[self.directory / "rows.npy"])


class MappedDocuments:
    """What evaluation reads of a `TokenStream`, from several shards: documents are views of the maps."""

    def __init__(self, shards: Sequence[Shard]):
        self.shards = shards

    @property
    def num_tokens(self) -> int:
        return sum(shard.num_tokens for shard in self.shards)

    @property
    def num_bytes(self) -> np.ndarray:
        return np.concatenate([shard.num_bytes for shard in self.shards])

    def documents(self) -> list[np.ndarray]:
        return [document for shard in self.shards for document in shard.documents()]


def write_arrays(directory: Path, **arrays: np.ndarray) -> None:
    """`directory` with a file NAME.npy for each array, whole or not at all; OSError if there is no room."""
    temporary = directory.with_name(f"{UNFINISHED}{directory.name}-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        for name, array in arrays.items():
            with (temporary / f"{name}.npy").open("wb") as file:
                header = np.lib.format.header_data_from_array_1_0(array)
                np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(array).data)  # np.save does not say why it wrote too little
                _sync(file)
        temporary.rename(directory)
        sync_directory(directory.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_json(path: Path, content: dict) -> None:
    temporary = path.with_name(f"{UNFINISHED}{path.name}-{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            _sync(file)
        temporary.rename(path)
        sync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_unfinished(directory: Path) -> None:
    """What a process that was killed has left; only for whoever holds the lock."""
    for path in directory.glob(f"**/{UNFINISHED}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def finished_shards(directory: Path) -> Iterator[Path]:
    """The shards 0, 1, 2, ... that are there."""
    number = 0
    while (path := directory / f"{number:05}").exists():
        yield path
        number += 1


def open_shards(directory: Path, maps: OpenMaps) -> list[Shard]:
    """The shards that the index of `directory` lists; a UserError if they are not whole."""
    try:
        index = json.loads((directory / INDEX).read_text(encoding="utf-8"))
        shards = [Shard(directory / f"{i:05}", sizes, maps) for i, sizes in enumerate(index["shards"])]
        for shard in shards:
            shard.check()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"--data_cache: {directory} is damaged; delete it, and it will be made again") from error
    return shards


def open_plans(shards: Sequence[Shard], length: int) -> list[Plan]:
    """The rows of each shard; those that are missing are planned and kept. Call it with the lock held."""
    plans = []
    for shard in shards:
        directory = shard.directory.parent / f"best_fit-{length}" / shard.directory.name
        if not directory.exists():
            plan = plan_best_fit(shard.starts, shard.num_tokens, length)
            write_arrays(directory, **plan._asdict())
        plans.append(MappedPlan(directory, shard.maps))
    return plans


def _sync(file) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
