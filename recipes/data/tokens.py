"""Documents as one stream of token ids, held in memory: what evaluation reads, and what a shard maps from disk.

stream   bos a a a a eos bos b b eos bos c c c eos ...
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from .corpus import Document
from .parallel import Encoded, encode_all

IGNORED = -100  # the label that losses pass over


@dataclass
class TokenStream:
    """`ids` of all documents one after the other, where each begins, and how many bytes of text each has."""

    ids: np.ndarray
    starts: np.ndarray
    num_bytes: np.ndarray

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    def read(self, begin: int, end: int) -> np.ndarray:
        return self.ids[begin:end].astype(np.int64)

    def documents(self) -> list[np.ndarray]:
        return np.split(self.ids, self.starts[1:])


def tokenize(documents: Iterable[Document], tokenizer, description: str, show_progress: bool = True) -> TokenStream:
    batches = []
    with tqdm(desc=description, unit="B", unit_scale=True, disable=None if show_progress else True) as bar:
        for batch in encode_all((document.text for document in documents), tokenizer):
            batches.append(batch)
            bar.update(int(batch.num_bytes.sum()))
    return stream_of(batches)


def stream_of(batches: list[Encoded], dtype=np.uint32) -> TokenStream:
    empty = Encoded(np.zeros(0, dtype), np.zeros(0, np.int64), np.zeros(0, np.int64))
    ids, lengths, num_bytes = map(np.concatenate, zip(empty, *batches, strict=True))
    return TokenStream(ids, np.cumsum(lengths) - lengths, num_bytes)
