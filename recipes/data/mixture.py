"""The endless sequence of rows: each source in a new random order each epoch, several sources in fixed shares.

Row n of the sequence is a function of n and the seed. So nothing but n has to be remembered to go on, and nothing
changes with the number of processes.

Shares are exact: after n rows source 0 has given round(n w0 / (w0 + w1 + ...)) of them, and what it has not given are
the rows of a mixture of the others, in the same way. Each source begins a new epoch of its own when it is through.
The shares are those of rows, which are those of tokens but for the padding.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property

import numpy as np
import torch

from .layout import BestFitRows, ConcatenatedRows, Row, shares


class Schedule:
    """Which source gives row n, and how many it has given before."""

    def __init__(self, weights: Sequence[float]):
        exact = [Fraction(weight) for weight in weights]
        self.shares = [weight / left if (left := sum(exact[i:])) else Fraction(0) for i, weight in enumerate(exact)]

    def locate(self, n: int) -> tuple[int, int]:
        for source, share in enumerate(self.shares):
            before, after = _rounded(n, share), _rounded(n + 1, share)
            if after > before:
                return source, before
            n -= before
        raise AssertionError("the last source with a weight has a share of 1")


def _rounded(n: int, share: Fraction) -> int:
    return (2 * n * share.numerator + share.denominator) // (2 * share.denominator)


class ShuffledRows:
    """Rows of one source or several, by their number in the endless sequence. Holds 4 bytes for each row."""

    def __init__(self, sources: Sequence[ConcatenatedRows | BestFitRows], weights: Sequence[float], seed: int):
        self.sources, self.weights, self.seed = sources, weights, seed
        self.schedule = Schedule(weights)
        self._orders: list[tuple[int, np.ndarray | None]] = [(-1, None)] * len(sources)

    def __len__(self) -> int:
        """Rows of an epoch: as many as the sources have together, whatever their shares."""
        return sum(map(len, self.sources))

    def batch(self, start: int, count: int) -> dict[str, torch.Tensor]:
        """The rows `start` to `start + count` of the endless sequence: ids, positions, labels, (count, T)."""
        return collate([self.row(start + i) for i in range(count)])

    def row(self, n: int) -> Row:
        source, index = self.schedule.locate(n)
        epoch, offset = divmod(index, len(self.sources[source]))
        return self.sources[source].row(int(self._order(source, epoch)[offset]))

    def documents(self) -> list[np.ndarray]:
        """The ids of every document of every source once, in the order of the sources."""
        return [ids for source in self.sources for stream in source.streams for ids in stream.documents()]

    def identity(self) -> list[list[str]]:
        """Of each source what its texts and their tokens are, see `identity.py`: other texts are other rows."""
        directories = [[stream.directory.parent.name for stream in source.streams] for source in self.sources]
        return [sorted(set(names)) for names in directories]

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Nothing: the number of a row says which it is."""

    @cached_property
    def statistics(self) -> dict:
        """What the sources hold, and the shares of padding and of cut documents in what is drawn from them."""
        each = [source.counts() for source in self.sources]
        times = [weight / counts["rows"] for weight, counts in zip(self.weights, each, strict=True)]
        drawn = {key: sum(t * counts[key] for t, counts in zip(times, each, strict=True)) for key in each[0]}
        held = {key: sum(counts[key] for counts in each) for key in ("documents", "bytes", "rows", "tokens")}
        return held | shares(drawn)

    def _order(self, source: int, epoch: int) -> np.ndarray:
        if self._orders[source][0] != epoch:
            n = len(self.sources[source])
            rng = np.random.default_rng([self.seed, source, epoch])
            self._orders[source] = epoch, rng.permutation(np.arange(n, dtype=np.uint32 if n < 2**32 else np.int64))
        return self._orders[source][1]


def collate(rows: list[Row]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.stack([row[key] for row in rows])) for key in rows[0]}
