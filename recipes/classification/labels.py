"""What the labels of a table mean.

    "spam", 3, true      one of several classes: their names are the labels as text, numbers in their own order
    ["a", "b"], []       any number of them at once
    3.5                  a number; one fraction makes all labels numbers

A file of comma-separated values has only text: what reads as a number there is one.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..options.base import UserError
from ..options.classify import MULTI, REGRESSION, SINGLE

SCALARS = (str, int, float)  # bool is an int


@dataclass(frozen=True)
class Labels:
    """`names` are the classes, in the order of the head's outputs; a regression has none."""

    problem_type: str
    names: tuple[str, ...]

    @property
    def outputs(self) -> int:
        return len(self.names) or 1

    @property
    def settings(self) -> dict:
        """What a model's configuration says of them."""
        settings = {"problem_type": self.problem_type, "num_labels": self.outputs}
        if self.names:
            settings["id2label"] = dict(enumerate(self.names))
            settings["label2id"] = {name: i for i, name in enumerate(self.names)}
        return settings

    def encode(self, label, where: str) -> int | float | list[float]:
        """As the loss takes it: a class's number, a number, or a 1 for each class that is there and a 0 for others.

        Raises:
            UserError: a label of another kind, or one that the training data do not have.
        """
        if self.problem_type == REGRESSION:
            return float(label) if _is_number(label) else _refuse(label, where, "is not a finite number")
        if self.problem_type == SINGLE:
            if not isinstance(label, SCALARS):
                _refuse(label, where, "is not one label")
            return self._number(label, where)
        if not isinstance(label, list):
            _refuse(label, where, "is not a list of labels")
        numbers = {self._number(one, where) for one in label}
        return [float(i in numbers) for i in range(self.outputs)]

    def _number(self, label, where: str) -> int:
        if (name := _name(label)) not in self.names:
            known = ", ".join(self.names[:10]) + (", ..." if len(self.names) > 10 else "")
            _refuse(label, where, f"is not among those of the training data ({known})")
        return self.names.index(name)


def find_labels(rows: Iterable[tuple[str, object]], problem_type: str | None) -> Labels:
    """The meaning of (where, label) pairs, those of the training data.

    Raises:
        UserError: labels of kinds that do not go together, or of a single class.
    """
    rows = list(rows)
    for where, label in rows:
        if not isinstance(label, (*SCALARS, list)):
            _refuse(label, where, "is neither a text nor a number nor a list of them")
        if isinstance(label, float) and not math.isfinite(label):
            _refuse(label, where, "is not a finite number")
    kind = problem_type or _kind(label for _, label in rows)
    if kind == REGRESSION:
        return Labels(REGRESSION, ())
    found: dict[str, object] = {}
    for where, label in rows:
        if isinstance(label, list) != (kind == MULTI):
            _refuse(label, where, "is not a list of labels" if kind == MULTI else "is not one label")
        found |= {_name(one): one for one in (label if kind == MULTI else [label])}
    if len(found) < 2:
        raise UserError(f"the training rows have {len(found)} label ({', '.join(found)}); a classifier needs two")
    return Labels(kind, tuple(sorted(found, key=_order)))


def _kind(labels: Iterable) -> str:
    labels = list(labels)
    if any(isinstance(label, list) for label in labels):
        return MULTI
    numbers = all(_is_number(label) for label in labels)
    return REGRESSION if numbers and any(not _is_whole(label) for label in labels) else SINGLE


def _is_number(label) -> bool:
    try:
        return math.isfinite(float(label)) and not isinstance(label, bool)
    except (TypeError, ValueError):
        return False


def _is_whole(label) -> bool:
    return str(label).strip().lstrip("+-").isdecimal()


def _name(label) -> str:
    return str(label).strip()


def _order(name: str) -> tuple:
    """Numbers before words, by their value."""
    return (0, float(name), "") if _is_number(name) else (1, 0.0, name)


def _refuse(label, where: str, what: str):
    raise UserError(f"--dataset {where}: label {label!r:.60} {what}")
