"""Rows of T tokens with what keeps their documents apart: positions that start again, labels that pass over joins.

    input_ids      bos a a eos  bos b eos  bos c c c eos  pad pad
    position_ids    0  1 2  3    0  1  2    0  1 2 3  4    0   1
    labels         -100 a a eos -100 b eos -100 c c c eos -100 -100

Positions that start again tell the model that what stands before is not to be seen. The label of a document's first
token is -100, because what stands before it says nothing about it. A piece of a document that was cut is a document of
its own, and so is the padding at the end of a row: one more document, which costs what any other of its length does.
"""

from collections.abc import Sequence

import numpy as np

from .packing import Plan
from .tokens import IGNORED, TokenStream

Row = dict[str, np.ndarray]


def make_row(ids: np.ndarray, joins: np.ndarray, num_tokens: int) -> Row:
    """A row whose documents begin at `joins` and whose ids from `num_tokens` on are padding."""
    origin = np.zeros(len(ids), np.int64)
    origin[joins] = joins
    labels = ids.copy()
    labels[joins] = IGNORED
    if num_tokens < len(ids):
        origin[num_tokens] = num_tokens
        labels[num_tokens:] = IGNORED
    positions = np.arange(len(ids)) - np.maximum.accumulate(origin)
    return {"input_ids": ids, "position_ids": positions, "labels": labels}


class ConcatenatedRows:
    """The streams, one after the other, cut into rows; the last incomplete row is left out.

    The label of the first token of a row is kept: the shift of labels passes over it anyway.

    Raises:
        ValueError: not one row.
    """

    def __init__(self, streams: Sequence[TokenStream], length: int):
        self.streams, self.length = streams, length
        self.ends = np.cumsum([stream.num_tokens for stream in streams])
        self.num_rows = int(self.ends[-1]) // length
        if self.num_rows == 0:
            message = f"{self.ends[-1]} tokens, fewer than one sequence of max_length={length}"
            raise ValueError(f"the training data has {message}")

    def __len__(self) -> int:
        return self.num_rows

    def row(self, index: int) -> Row:
        begin, end = index * self.length, (index + 1) * self.length
        first, last = np.searchsorted(self.ends, [begin, end - 1], side="right")
        ids, joins = [], []
        for stream, stream_end in zip(self.streams[first : last + 1], self.ends[first : last + 1], strict=True):
            offset = int(stream_end) - stream.num_tokens
            local = max(0, begin - offset), min(stream.num_tokens, end - offset)
            ids.append(stream.read(*local))
            inside = slice(*np.searchsorted(stream.starts, local))
            joins.append(stream.starts[inside] + (offset - begin))
        return make_row(np.concatenate(ids), np.concatenate(joins), self.length)

    def counts(self) -> dict[str, int]:
        """A document is cut if it begins in a row and does not end in it."""
        cut, end_of_rows = 0, self.num_rows * self.length
        for stream, end in zip(self.streams, self.ends.tolist(), strict=True):
            begins = stream.starts + (end - stream.num_tokens)
            last = np.append(begins[1:], end) - 1
            is_cut = (begins // self.length != last // self.length) & (begins < end_of_rows)
            cut += int(np.count_nonzero(is_cut))
        return _counts(self, cut, padding=0)


class BestFitRows:
    """The rows of one plan for each stream."""

    def __init__(self, streams: Sequence[TokenStream], plans: Sequence[Plan], length: int, pad_id: int):
        self.streams, self.plans, self.length, self.pad_id = streams, plans, length, pad_id
        self.ends = np.cumsum([len(plan.rows) - 1 for plan in plans])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def row(self, index: int) -> Row:
        which = int(np.searchsorted(self.ends, index, side="right"))
        stream, plan = self.streams[which], self.plans[which]
        j = index - (int(self.ends[which - 1]) if which else 0)
        pieces = slice(*plan.rows[j : j + 2].tolist())
        ids, joins, at = np.full(self.length, self.pad_id, np.int64), [], 0
        for begin, size in zip(plan.begins[pieces].tolist(), plan.lengths[pieces].tolist(), strict=True):
            ids[at : at + size] = stream.read(begin, begin + size)
            joins.append(at)
            at += size
        return make_row(ids, np.asarray(joins), at)

    def counts(self) -> dict[str, int]:
        """A document is cut if it is longer than a row."""
        sizes = (np.diff(stream.starts, append=stream.num_tokens) for stream in self.streams)
        cut = sum(int(np.count_nonzero(size > self.length)) for size in sizes)
        return _counts(self, cut, padding=len(self) * self.length - sum(s.num_tokens for s in self.streams))


def _counts(rows: ConcatenatedRows | BestFitRows, cut: int, padding: int) -> dict[str, int]:
    return {
        "documents": sum(len(stream.starts) for stream in rows.streams),
        "bytes": sum(int(stream.num_bytes.sum()) for stream in rows.streams),
        "rows": len(rows),
        "tokens": len(rows) * rows.length - padding,  # those in rows
        "padding": padding,
        "cut": cut,
    }


def shares(counts: dict[str, float]) -> dict[str, float]:
    """The share of padding among all positions of rows, and that of documents that are cut."""
    positions = counts["tokens"] + counts["padding"]
    return {
        "padding_share": counts["padding"] / (positions or 1),
        "cut_share": counts["cut"] / (counts["documents"] or 1),
    }
