"""Documents of one epoch of a source, read from any position on, divided over processes.

Each process takes the documents whose number leaves its index when divided by the number of processes, or for a dataset
on the Hub what `split_dataset_by_node` gives it. The order of files changes with seed and epoch.
"""

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

import numpy as np

from .corpus import VALIDATION_SHARE, Part, parts_of, split_of
from .hub import hub_errors, open_hub
from .readers import text_of


class Source(Protocol):
    """`texts` goes on from a position of its own making, and `position` is then that after the last text.

    `identity` is another one where the texts are others, as far as it can be known without reading them.
    """

    name: str
    position: dict

    def texts(self, epoch: int, position: dict | None) -> Iterator[str]: ...

    def identity(self) -> str | None: ...


def open_source(
    name: str, text_column: str, seed: int, index: int, count: int, validation_share: float = VALIDATION_SHARE
) -> Source:
    parts = parts_of(name, "train", text_column, validation_share)
    if parts is None:
        return HubSource(name, text_column, seed, index, count, validation_share)
    return FileSource(name, parts, seed, index, count)


class FileSource:
    """Files, whose position is the file, the document within it, and the number of the document within the epoch."""

    def __init__(self, name: str, parts: list[Part], seed: int, index: int, count: int):
        self.name, self.parts, self.seed, self.index, self.count = name, parts, seed, index, count
        self.position: dict = {}

    def identity(self) -> str:
        files = [(part.name, part.path.stat().st_size) for part in self.parts]
        return hashlib.sha256(json.dumps(files).encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def texts(self, epoch: int, position: dict | None) -> Iterator[str]:
        start = position or {"file": 0, "document": 0, "number": 0}
        number, skip = start["number"], start["document"]
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.parts)).tolist()
        for file in range(start["file"], len(order)):
            documents = islice(self.parts[order[file]].read(), skip, None)
            for in_file, document in enumerate(documents, skip + 1):
                if not document.text.strip():
                    continue
                number += 1
                if (number - 1) % self.count == self.index:
                    self.position = {"file": file, "document": in_file, "number": number}
                    yield document.text
            skip = 0


class HubSource:
    """A streamed dataset, whose position is the `state_dict` of the library.

    Its shuffle buffer is not used: its contents are lost on the way through `state_dict`. `set_epoch` changes the order
    of the files, which is exact.
    """

    def __init__(
        self,
        name: str,
        text_column: str,
        seed: int,
        index: int,
        count: int,
        validation_share: float = VALIDATION_SHARE,
    ):
        from datasets.distributed import split_dataset_by_node

        self.name, self.text_column, self.seed, self.validation_share = name, text_column, seed, validation_share
        with hub_errors(name, lambda: 0):
            (stream,), self.own_split = open_hub(name, "train")
            self.stream = split_dataset_by_node(stream, index, count)

    def identity(self) -> None:
        """The library's state holds the file that it is in, and the Hub's files do not become shorter."""

    @property
    def position(self) -> dict:
        return self.stream.state_dict()

    def texts(self, epoch: int, position: dict | None) -> Iterator[str]:
        rows = 0
        with hub_errors(self.name, lambda: rows):
            self.stream.set_epoch(1 + int(np.random.default_rng([self.seed, epoch]).integers(2**31)))
            self.stream.load_state_dict(position)
            for row in self.stream:
                rows += 1
                text = text_of(row, self.text_column, f"{self.name}, row {rows}")
                if text.strip() and (self.own_split or split_of(text, self.validation_share) == "train"):
                    yield text
