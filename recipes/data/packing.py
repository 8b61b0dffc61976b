"""Which tokens stand in which row of length T.

    concatenate   [a a a a a][a b b b c][c c c c c] ...     the stream cut up: no padding, many documents cut
    best_fit      [a a a a a][c c c c c][b b b a c] ...     pieces of documents put where they leave the least room

Best-fit packing is Ding et al. (2024), "Fewer Truncations Improve Language Modeling", arXiv:2404.10830: a document
longer than T is cut into pieces of T tokens and a rest; from the longest to the shortest, each goes into the fullest
row that has room for it. Only documents that are longer than a row are cut. The paper searches a segment tree for each
piece; here pieces of equal length are put into rows of equal room all at once, which gives the same rows.
"""

from bisect import bisect_left, insort
from typing import NamedTuple

import numpy as np


class Plan(NamedTuple):
    """Piece i is `lengths[i]` ids from `begins[i]` on; row j holds the pieces `rows[j]` to `rows[j + 1]`."""

    begins: np.ndarray
    lengths: np.ndarray
    rows: np.ndarray


def plan_best_fit(starts: np.ndarray, end: int, length: int) -> Plan:
    """Rows for the documents that begin at `starts` in `end` tokens; every token is in one row."""
    starts = np.asarray(starts, np.int64)
    sizes = np.diff(starts, append=end)
    whole, rest = sizes // length, sizes % length
    number = np.arange(whole.sum()) - np.repeat(np.cumsum(whole) - whole, whole)  # of the piece within its document
    full = np.repeat(starts, whole) + number * length
    has_rest = rest > 0
    rest_begins, rests = (starts + whole * length)[has_rest], rest[has_rest]
    row_of_rest, count = best_fit_decreasing(rests, length)
    order = np.lexsort((rest_begins, row_of_rest))
    begins = np.concatenate([full, rest_begins[order]])
    lengths = np.concatenate([np.full(len(full), length), rests[order]]).astype(np.int32)
    pieces_in_row = np.concatenate([np.ones(len(full), np.int64), np.bincount(row_of_rest, minlength=count)])
    return Plan(begins, lengths, np.concatenate([[0], np.cumsum(pieces_in_row)]))


def best_fit_decreasing(sizes: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """(the bin of each item, the number of bins) of best-fit decreasing; sizes are 1 to `capacity`.

    Items of one size and bins of one gap (free room) are alike, so that they are placed in groups. The tightest bin
    that takes an item stays the tightest while it has room for another of that size: it takes `gap // size` of them.
    """
    bin_of, num_bins = np.empty(len(sizes), np.int64), 0
    by_gap: dict[int, list[np.ndarray]] = {}
    gaps: list[int] = []  # the keys of `by_gap`, sorted

    def add(gap: int, bins: np.ndarray) -> None:
        if gap and len(bins):
            if gap not in by_gap:
                insort(gaps, gap)
            by_gap.setdefault(gap, []).append(bins)

    order = np.argsort(-sizes, kind="stable")
    borders = np.flatnonzero(np.diff(sizes[order])) + 1
    for items in np.split(order, borders) if len(order) else []:
        size = int(sizes[items[0]])
        while len(items):
            tightest = bisect_left(gaps, size)
            if tightest < len(gaps):
                gap = gaps.pop(tightest)
                bins = np.concatenate(by_gap.pop(gap))
            else:
                gap = capacity
                bins = np.arange(num_bins, num_bins + -(-len(items) // (gap // size)))
                num_bins += len(bins)
            fit = gap // size
            full = min(len(items) // fit, len(bins))
            left = len(items) - full * fit if full < len(bins) else 0  # for one bin that is not filled up
            bin_of[items[: full * fit]] = np.repeat(bins[:full], fit)
            bin_of[items[full * fit : full * fit + left]] = bins[full : full + 1]
            add(gap - fit * size, bins[:full])
            if left:
                add(gap - left * size, bins[full : full + 1])
            add(gap, bins[full + (left > 0) :])
            items = items[full * fit + left :]
    return bin_of, num_bins
