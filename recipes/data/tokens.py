"""Documents as one stream of token ids, and the rows of fixed length that training cuts from it.

    stream   bos a a a a eos bos b b eos bos c c c eos ...
    row      [        T ids        ][        T ids        ] ...

No token is padding and none is dropped but the last incomplete row. Positions start again at each document, by which
the model knows that documents do not see each other; the label of a document's first token is -100, because what stands
before it says nothing about it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from ...tokenization.encoding import encode_documents
from .corpus import Document

IGNORED = -100  # the label that losses pass over
BATCH_BYTES = 2**20  # text given to the tokenizer at once; it encodes the documents of a batch in parallel


@dataclass
class TokenStream:
    """`ids` of all documents one after the other, where each begins, and how many bytes of text each has."""

    ids: np.ndarray
    starts: np.ndarray
    num_bytes: np.ndarray

    def documents(self) -> list[np.ndarray]:
        return np.split(self.ids, self.starts[1:])


def tokenize(documents: Iterable[Document], tokenizer, description: str, show_progress: bool = True) -> TokenStream:
    ids, lengths, num_bytes = [], [], []
    with tqdm(desc=description, unit="B", unit_scale=True, disable=not show_progress) as bar:
        for texts in _batches(documents):
            sizes = [len(text.encode("utf-8", "surrogatepass")) for text in texts]
            for encoded in encode_documents(tokenizer, texts):
                ids.append(np.asarray(encoded, np.uint32))
                lengths.append(len(encoded))
            num_bytes += sizes
            bar.update(sum(sizes))
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]) if lengths else np.zeros(0)
    flat = np.concatenate(ids) if ids else np.zeros(0, np.uint32)
    return TokenStream(flat, starts.astype(np.int64), np.asarray(num_bytes, np.int64))


def _batches(documents):
    texts, size = [], 0
    for document in documents:
        texts.append(document.text)
        size += len(document.text)
        if size >= BATCH_BYTES:
            yield texts
            texts, size = [], 0
    if texts:
        yield texts


class PackedRows:
    """The rows of a stream, in a new random order each epoch.

    The order is a function of the seed, so that the number of rows already seen is all that has to be remembered; it
    does not depend on the number of processes.
    """

    def __init__(self, stream: TokenStream, length: int, seed: int):
        self.stream, self.length, self.seed = stream, length, seed
        self.num_rows = len(stream.ids) // length
        if self.num_rows == 0:
            raise ValueError(
                f"the training data has {len(stream.ids)} tokens, fewer than one sequence of max_length={length}"
            )
        self._epoch, self._order = -1, None

    def __len__(self) -> int:
        return self.num_rows

    def batch(self, start: int, count: int) -> dict[str, torch.Tensor]:
        """The rows `start` to `start + count` of the endless shuffled sequence: ids, positions, labels, (count, T)."""
        return collate([self.row(self._shuffled(start + i)) for i in range(count)])

    def row(self, index: int) -> dict[str, np.ndarray]:
        begin, T = index * self.length, self.length
        ids = self.stream.ids[begin : begin + T].astype(np.int64)
        first, last = np.searchsorted(self.stream.starts, [begin, begin + T])
        joins = self.stream.starts[first:last] - begin  # where documents begin within the row
        origin = np.zeros(T, np.int64)
        origin[joins] = joins
        labels = ids.copy()
        labels[joins] = IGNORED
        return {"input_ids": ids, "position_ids": np.arange(T) - np.maximum.accumulate(origin), "labels": labels}

    def _shuffled(self, index: int) -> int:
        epoch, offset = divmod(index, self.num_rows)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.num_rows)
        return int(self._order[offset])


def collate(rows: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.stack([row[key] for row in rows])) for key in rows[0]}
