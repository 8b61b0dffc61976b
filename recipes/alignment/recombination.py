"""Names that do not exist: the owner of one real object with the last part of another, `shutil.fnmatch`.

Both halves are known, so only the whole tells that there is nothing to know, which is how a model comes to make things
up. The owner is one whose names can be told from its source (no star import, no base class from elsewhere), and the
borrowed word stands nowhere in that source: what is not spelled there cannot be defined there.
"""

from collections.abc import Iterator
from typing import NamedTuple

from .drawing import draw, side_of
from .library import Documented, Library


class Invented(NamedTuple):
    name: str
    kind: str
    lender: Documented  # whose last part it borrows: what a model that makes things up would describe


def invent(
    owners: list[Documented], lenders: list[Documented], split: str, shares: dict[str, float], library: Library
) -> list[Invented]:
    """As many names as there are owners, where so many can be found; each closed owner lends its part in turn.

    Whatever the owners, no name comes up in two splits: its hash says in which.
    """
    rings = {kind: _ring(lenders, kind) for kind in ("function", "class", "method")}
    real = {item.name for item in library.documented}
    found: dict[str, Invented] = {}
    closed = sorted((owner for owner in owners if owner.is_closed), key=lambda item: draw("owner", item.name))
    candidates = {owner.name: _candidates(owner, rings[owner.kind]) for owner in closed}
    while candidates and len(found) < len(owners):
        for owner in [owner for owner in closed if owner.name in candidates]:
            for invented in candidates[owner.name]:
                name = invented.name
                fits = side_of(name, shares) == split and name not in found and name not in real
                if fits and library.lacks(owner, name.rpartition(".")[2]):
                    found[name] = invented
                    break
            else:
                del candidates[owner.name]
            if len(found) == len(owners):
                break
    return list(found.values())


def _ring(items: list[Documented], kind: str) -> list[Documented]:
    """Those of a kind in an order of their own: a library with one object more has other names at that place only."""
    return sorted((item for item in items if item.kind == kind), key=lambda item: draw("ring", item.name))


def _candidates(owner: Documented, ring: list[Documented]) -> Iterator[Invented]:
    """The owner with the last part of each other object, from its own place in the ring on."""
    start = ring.index(owner) + 1
    for lender in ring[start:] + ring[: start - 1]:
        yield Invented(f"{owner.owner}.{lender.name.rpartition('.')[2]}", owner.kind, lender)
