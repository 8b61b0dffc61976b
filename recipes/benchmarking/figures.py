"""Figures: of each contender the median and the spread, its ratio to each peer, and its share of the limit.

Ratios are medians of the ratios of each round, in which both had the same machine: a slow minute slows both.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from .interleaving import LIMIT, OURS, PEER

MORE, LESS = "more", "less"
KEYS = ("section", "what", "unit", "better", "limit", "axis", "at")


@dataclass
class Entry:
    """One contender's values of a figure, round by round, or why there are none.

    `shares` are those of the limit, where the unit allows one.
    """

    name: str
    kind: str
    values: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    fault: str | None = None

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def share(self) -> float | None:
        return statistics.median(self.shares) if self.shares else None


@dataclass
class Figure:
    """`what` was measured, in which `unit`, whether more or less is better, and the `limit` in words.

    Of a cost that grows: `axis` is with what, and `at` its value here.
    """

    section: str
    what: str
    unit: str
    entries: list[Entry]
    better: str = MORE
    limit: str | None = None
    axis: str | None = None
    at: float | None = None

    def entry(self, name: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.name == name), None)

    def ratio(self, name: str, to: str) -> float | None:
        """The median of the rounds' ratios of two contenders; None where one has no values."""
        ours, theirs = self.entry(name), self.entry(to)
        return median_ratio(ours.values, theirs.values) if ours and theirs else None

    def ratios(self, name: str) -> dict[str, float]:
        """One of ours to each peer."""
        peers = [entry.name for entry in self.entries if entry.kind == PEER]
        found = {peer: self.ratio(name, peer) for peer in peers}
        return {peer: ratio for peer, ratio in found.items() if ratio is not None}

    def as_json(self) -> dict:
        rows = []
        for entry in self.entries:
            row = asdict(entry) | {"median": entry.median, "share_of_limit": entry.share}
            row |= {"low": min(entry.values, default=None), "high": max(entry.values, default=None)}
            row["ratios"] = self.ratios(entry.name) if entry.kind == OURS else {}
            rows.append(row)
        return {k: getattr(self, k) for k in KEYS} | {"contenders": rows}


def median_ratio(values: Sequence[float], others: Sequence[float]) -> float | None:
    """The median of the ratios of each round that both have."""
    ratios = [a / b for a, b in zip(values, others, strict=False) if b]
    return statistics.median(ratios) if ratios else None


def round_shares(values: Sequence[float], limits: Sequence[float]) -> list[float]:
    return [value / limit for value, limit in zip(values, limits, strict=False) if limit]


def entries(values: Mapping[str, list[float]], kinds: Mapping[str, str], faults: Mapping[str, str]) -> list[Entry]:
    """One entry for each name of `kinds` but the limits, those without values with their fault."""
    return [
        Entry(name, kind, values.get(name, []), fault=faults.get(name))
        for name, kind in kinds.items()
        if kind != LIMIT and (values.get(name) or name in faults)
    ]
