"""What the measurement is held against: ratios and shares that Rhapsode is meant to reach on two CPU cores."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from .figures import Entry, Figure
from .interleaving import OURS
from .loss import CHUNKED, WHOLE
from .packing import BEST_FIT, MASKED


@dataclass
class Goal:
    """A value, and how large it is to be at least, or at most."""

    what: str
    value: float
    bound: float
    at_least: bool = True

    @property
    def is_reached(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def as_json(self) -> dict:
        return asdict(self) | {"is_reached": self.is_reached}


def goals(figures: list[Figure]) -> list[Goal]:
    """Those whose figures there are; of several designs the first's."""
    makers = {"training": _training, "decoding": _decoding, "loss": _loss, "packing": _packing}
    found = []
    for section, make in makers.items():
        of_section = [figure for figure in figures if figure.section == section]
        found += make(of_section) if of_section else []
    return found


def _best(figure: Figure) -> Entry | None:
    """The fastest of ours."""
    ours = [entry for entry in figure.entries if entry.kind == OURS and entry.values]
    return max(ours, key=lambda entry: entry.median, default=None)


def _against(figure: Figure, bounds: dict[str, float]) -> Iterator[Goal]:
    best = _best(figure)
    for peer, ratio in (figure.ratios(best.name) if best else {}).items():
        if peer in bounds:
            yield Goal(f"{figure.section}, {figure.what}: {best.name} / {peer}", ratio, bounds[peer])


def _training(figures: list[Figure]) -> Iterator[Goal]:
    yield from _against(figures[0], {"Trainer": 3.0, "Trainer best": 1.25})


def _decoding(figures: list[Figure]) -> Iterator[Goal]:
    for figure in figures:
        if figure.unit == "tokens/s" and "batch 1," in figure.what:
            peers = [entry.name for entry in figure.entries if entry.kind != OURS]
            yield from _against(figure, {name: 2.0 if name.endswith("generate") else 1.0 for name in peers})
            best = _best(figure)
            if best and best.share is not None:
                yield Goal(f"decoding, {figure.what}: {best.name} / the limit", best.share, 0.6)


def _loss(figures: list[Figure]) -> Iterator[Goal]:
    time, memory = figures
    for figure, unit, bound in ((time, "seconds", 1.1), (memory, "memory", 0.1)):
        ratio = figure.ratio(CHUNKED, WHOLE)
        if ratio is not None:
            yield Goal(f"loss, {time.what}: {unit} / with whole logits", ratio, bound, at_least=False)


def _packing(figures: list[Figure]) -> Iterator[Goal]:
    (figure,) = figures
    packed, masked = figure.ratio(BEST_FIT, MASKED), figure.entry(MASKED)
    if packed is not None:
        yield Goal("packing: text in best-fit rows / in rows without padding, both with masks", packed, 0.99)
    if masked is not None and masked.share is not None:
        yield Goal("packing: rows with document masks / the same rows without", masked.share, 0.95)
