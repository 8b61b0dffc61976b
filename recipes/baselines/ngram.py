"""A byte n-gram model with interpolated Kneser-Ney smoothing: the baseline that a trained network has to beat.

    P_n(c | h) = max(N(hc) - D_n, 0) / N(h.) + D_n U(h.) / N(h.) * P_{n-1}(c | h')

N counts occurrences for the longest context and distinct left neighbours for the shorter ones, U(h.) counts the
distinct bytes seen after h, h' drops the oldest byte, D_n = n1 / (n1 + 2 n2) from the numbers of n-grams seen once and
twice (Kneser and Ney 1995; Chen and Goodman 1999, section 2.7). The recursion ends in the uniform distribution over 256
bytes.

A context of up to seven bytes fits a 64-bit integer, so all of it is sorting and searching of integer arrays.
"""

import numpy as np

MAX_ORDER = 7


class ByteNGram:
    """`order` is the length of the longest n-gram, 1 to 7: a 5-gram predicts a byte from the four before it."""

    def __init__(self, order: int = 5):
        if not 1 <= order <= MAX_ORDER:
            raise ValueError(f"order={order} is not between 1 and {MAX_ORDER}")
        self.order = order
        self.levels: list[_Level] = []

    def fit(self, data: bytes) -> "ByteNGram":
        """Count the n-grams of `data`, which must be at least `order` bytes long."""
        if len(data) < self.order:
            raise ValueError(f"{len(data)} bytes are too few for order={self.order}")
        grams, counts = np.unique(_grams(data, self.order), return_counts=True)
        self.levels = [_Level(grams, counts)]
        for length in range(self.order - 1, 0, -1):
            # A shorter n-gram is counted once for each distinct byte that stands before it.
            suffix = grams & np.uint64((1 << (8 * length)) - 1)
            grams, counts = np.unique(suffix, return_counts=True)
            self.levels.insert(0, _Level(grams, counts))
        return self

    def probabilities(self, data: bytes) -> np.ndarray:
        """P(byte | up to order - 1 bytes before it) for each byte of `data`."""
        padded = bytes(self.order - 1) + data
        probability = np.full(len(data), 1 / 256)
        for length, level in enumerate(self.levels, 1):
            grams = _grams(padded, length)[self.order - length :]
            interpolated = level.interpolate(grams, probability)
            probability[length - 1 :] = interpolated[length - 1 :]  # the first bytes have no longer context
        return probability

    def bits_per_byte(self, data: bytes) -> float:
        return float(-np.log2(self.probabilities(data)).mean())


class _Level:
    """The counts of one n-gram length."""

    def __init__(self, grams: np.ndarray, counts: np.ndarray):
        self.grams, self.counts = grams, counts.astype(np.float64)
        self.contexts, first = np.unique(grams >> np.uint64(8), return_index=True)  # grams are sorted
        self.totals = np.add.reduceat(self.counts, first)
        self.followers = np.diff(first, append=len(grams)).astype(np.float64)
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        self.discount = once / (once + 2 * twice) if once else 0.5

    def interpolate(self, grams: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """This level's probability of each gram, `lower` being that of the shorter one."""
        context, known = _find(self.contexts, grams >> np.uint64(8))
        gram, seen = _find(self.grams, grams)
        count = np.where(seen, self.counts[gram], 0)
        total, followers = self.totals[context], self.followers[context]
        smoothed = (np.maximum(count - self.discount, 0) + self.discount * followers * lower) / total
        return np.where(known, smoothed, lower)


def _grams(data: bytes, length: int) -> np.ndarray:
    """Every run of `length` bytes as one big-endian integer."""
    values = np.frombuffer(data, np.uint8).astype(np.uint64)
    grams = np.zeros(len(values) - length + 1, np.uint64)
    for i in range(length):
        grams = (grams << np.uint64(8)) | values[i : len(values) - length + 1 + i]
    return grams


def _find(table: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(position, whether it is there) of each key in a sorted table; positions of absent keys are arbitrary."""
    position = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return position, table[position] == keys
