"""Figures with 95% intervals.

    ratio     sum_i a_i / sum_i b_i over documents or examples; percentile bootstrap over them (Efron 1979)
    share     k of n; Wilson's interval (1927), which holds at 0 and n too, where a bootstrap says nothing

The difference of two models on the same examples is the ratio of the differences, so that what is hard for both of them
does not widen its interval.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, bootstrap

CONFIDENCE = 0.95
AT_ONCE = 2**22  # numbers that are resampled at once


class Measured(NamedTuple):
    """`low` and `high` are None where one example does not tell."""

    value: float
    low: float | None
    high: float | None
    count: int
    unit: str
    amount: float | None = None  # what the value is per, where an example is more than one of it
    per: str | None = None


class Values(NamedTuple):
    """A figure's parts, one for each example: what is added up, what it is divided by, and what is shown of that."""

    numerators: np.ndarray
    denominators: np.ndarray
    unit: str = "examples"
    show: Callable[[float], float] = float
    per: str | None = None  # what the denominators count, where that is not the examples
    about: bytes = b""  # what the examples are, where it depends on the tokenizer

    def measured(self, samples: int, seed: int) -> Measured:
        counted = self.denominators > 0
        a, b = self.numerators[counted].astype(float), self.denominators[counted].astype(float)
        if len(a) == 0:
            return Measured(math.nan, None, None, 0, self.unit)
        low, high = _wilson(a) if self.numerators.dtype == bool else _bootstrap(a, b, samples, seed)
        ends = (None if end is None else self.show(end) for end in (low, high))
        return Measured(
            self.show(a.sum() / b.sum()), *ends, len(a), self.unit, *((b.sum().item(), self.per) if self.per else ())
        )

    def minus(self, other: "Values") -> "Values":
        """The difference to another model's on the same examples."""
        return self._replace(numerators=self.numerators.astype(float) - other.numerators)


def shares(right: list[bool], unit: str = "examples") -> Values:
    return Values(np.array(right, bool), np.ones(len(right)), unit)


def _wilson(a: np.ndarray) -> tuple[float, float]:
    interval = binomtest(int(a.sum()), len(a)).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def _bootstrap(a: np.ndarray, b: np.ndarray, samples: int, seed: int) -> tuple[float | None, float | None]:
    if len(a) < 2:
        return None, None
    found = bootstrap(
        (a, b),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=samples,
        confidence_level=CONFIDENCE,
        method="percentile",
        batch=max(1, AT_ONCE // len(a)),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
