"""Tokenizing a source once: into shards below the cache, found again by what they were made of.

Whoever is killed while tokenizing loses the shard at hand: the next run reads the texts of the finished ones again,
which is fast, and tokenizes from there on. A lock lets one process at a time build in a directory; the others wait for
it and then find the shards ready, the processes of a distributed run among them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from ..options.base import UserError, one_line
from .corpus import VALIDATION_SHARE, Part, parts_of, read_documents
from .identity import FORMAT, key_of
from .parallel import Encoded, available_cores, encode_all
from .readers import suffixes
from .shards import (
    INDEX,
    OpenMaps,
    Shard,
    finished_shards,
    open_plans,
    open_shards,
    remove_unfinished,
    write_arrays,
    write_json,
)
from .tokens import stream_of

SHARD_BYTES = 2**26  # text of a shard, at least
DEFAULT_CACHE = "~/.cache/rhapsode/shards"


class Cache:
    """The directory of all shards."""

    def __init__(
        self,
        directory: str | None,
        processes: int | None = None,
        show_progress: bool = True,
        validation_share: float = VALIDATION_SHARE,
    ):
        self.root = Path(directory or DEFAULT_CACHE).expanduser()
        self.processes = processes or available_cores()
        self.show_progress, self.validation_share = show_progress, validation_share
        self.maps = OpenMaps()

    def shards(self, source: str, split: str, text_column: str, tokenizer) -> list[Shard]:
        """The tokens of a source, made now if they are not there.

        Raises:
            UserError: a source that cannot be read, a cache that cannot be written or is damaged.
        """
        parts = parts_of(source, split, text_column, self.validation_share)
        with self._writing():
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / "digests.lock"):
                key = key_of(source, split, text_column, parts, tokenizer, self.root, self.validation_share)
                directory = self.root / key
            with _locked(directory):
                if not (directory / INDEX).exists():
                    self._build(directory, source, split, text_column, tokenizer, parts)
        return open_shards(directory, self.maps)

    def plans(self, shards: list[Shard], length: int) -> list:
        """The rows of best-fit packing for each of the shards of one source."""
        directory = shards[0].directory.parent
        with self._writing(), _locked(directory):
            return open_plans(shards, length)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = one_line(error.strerror or error)
            raise UserError(
                f"--data_cache {self.root}: {reason}; finished shards are kept, make room or name another directory"
            ) from error

    def _build(self, directory, source, split, text_column, tokenizer, parts) -> None:
        dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
        finished = [_sizes(path) for path in finished_shards(directory)]
        documents = read_documents([source], split, text_column, self.validation_share)
        texts = (d.text for d in islice(documents, sum(sizes["documents"] for sizes in finished), None))
        with tqdm(
            desc=f"tokens of {source}, {split}",
            total=_expected_bytes(parts, split, self.validation_share),
            initial=sum(sizes["bytes"] for sizes in finished),
            unit="B",
            unit_scale=True,
            disable=None if self.show_progress else True,
        ) as bar:
            for batches in _by_shard(encode_all(texts, tokenizer, dtype, self.processes), bar.update):
                path = directory / f"{len(finished):05}"
                stream = stream_of(batches, dtype)
                write_arrays(path, ids=stream.ids, starts=stream.starts, num_bytes=stream.num_bytes)
                finished.append(_sizes(path))
            bar.total = bar.n
        write_json(directory / INDEX, {"format": FORMAT, "source": source, "split": split, "shards": finished})


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    with FileLock(f"{directory}.lock"):
        directory.mkdir(exist_ok=True)
        remove_unfinished(directory)
        yield


def _sizes(path: Path) -> dict[str, int]:
    tokens = len(np.load(path / "ids.npy", mmap_mode="r"))
    num_bytes = np.load(path / "num_bytes.npy")
    return {"documents": len(num_bytes), "tokens": tokens, "bytes": int(num_bytes.sum())}


def _by_shard(encoded: Iterator[Encoded], progress) -> Iterator[list[Encoded]]:
    """The batches of each shard, which ends with the document that brings it to `SHARD_BYTES`, wherever batches end."""
    collected, size = [], 0
    for batch in encoded:
        progress(int(batch.num_bytes.sum()))
        while len(batch.lengths):
            ends = size + np.cumsum(batch.num_bytes)
            count = int(np.searchsorted(ends, SHARD_BYTES)) + 1
            taken, batch = _divide(batch, count)
            collected.append(taken)
            size = int(ends[min(count, len(ends)) - 1])
            if size >= SHARD_BYTES:
                yield collected
                collected, size = [], 0
    if collected:
        yield collected


def _divide(batch: Encoded, count: int) -> tuple[Encoded, Encoded]:
    tokens = int(batch.lengths[:count].sum())
    first = Encoded(batch.ids[:tokens], batch.lengths[:count], batch.num_bytes[:count])
    return first, Encoded(batch.ids[tokens:], batch.lengths[count:], batch.num_bytes[count:])


def _expected_bytes(parts: list[Part] | None, split: str, validation_share: float) -> int | None:
    """About how much text there is, where the sizes of files tell."""
    if parts is None or any(suffixes(part.path)[1] or suffixes(part.path)[0] == ".parquet" for part in parts):
        return None
    total = sum(part.path.stat().st_size for part in parts)
    share = validation_share if split == "validation" else 1 - validation_share
    return int(total * share) if len(parts) == 1 else total
