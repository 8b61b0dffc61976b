"""Questions about the standard library's documentation: an alignment task that needs no download.

    What does `shutil.copyfile` do?     -> the first sentence of its docstring
    What does `shutil.fnmatch` do?      -> I don't know.

Four splits. `train`, `validation` and `test` have objects of their own: two objects that share a sentence are on one
side, and so are all questions about one. Who has not read the library cannot answer `validation` and `test`.
`rephrased` asks for the objects of `train` in words that training never used: what a model can pass that has learned
nothing else. Invented names are of one split each. The phrasings of `test` and `rephrased` are held out.

Which split a name belongs to depends on the name alone, not on a seed: whoever changes the seed between two stages of
alignment still tests on what no stage has seen. The seed gives the order.
"""

from typing import NamedTuple

from ..data.words import words_of
from ..options.base import UserError
from .drawing import draw, side_of
from .judge import ABSTENTION
from .library import Documented, standard_library
from .recombination import invent

SPLITS = ("train", "validation", "test", "rephrased")
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
SHARES_OF_INVENTED = dict.fromkeys(SPLITS, 0.25)
PHRASINGS = (
    "What does `{}` do?",
    "What is `{}` for?",
    "Explain `{}`.",
    "Describe `{}` in one sentence.",
    "Tell me what `{}` does.",
    "In Python, what is the purpose of `{}`?",
)
HELD_OUT_PHRASINGS = ("Tell me about `{}`.", "Please explain what `{}` does.")


class Question(NamedTuple):
    """`kind` is function, class or method. `decoy` is the answer to another question of the same split: for an
    invented name to that about the object it borrows from."""

    name: str
    prompt: str
    answer: str
    is_real: bool
    kind: str
    decoy: str


def questions(split: str, seed: int = 0, size: int | None = None, invented_share: float = 1.0) -> list[Question]:
    """Every question of the split, in an order that the seed gives.

    Args:
        split: train, validation, test or rephrased.
        size: as many objects of the library, over the three splits that divide them; None takes all, about 3000.
        invented_share: of the invented names, of which there are as many as real ones.

    Raises:
        ValueError: an unknown split.
        UserError: a size so small that the split has no object.
    """
    objects, everything, library = objects_of(split, size), objects_of(split), standard_library()
    phrasings = PHRASINGS if split in ("train", "validation") else HELD_OUT_PHRASINGS
    facts = _about_real(objects, everything)
    invented = invent(objects, everything, split, SHARES_OF_INVENTED, library)
    facts += [
        (item.name, ABSTENTION, False, item.kind, item.lender.sentence)
        for item in invented
        if draw("share", item.name) < invented_share
    ]
    found = [Question(fact[0], phrasing.format(fact[0]), *fact[1:]) for fact in facts for phrasing in phrasings]
    return sorted(found, key=lambda question: draw("order", seed, question.prompt))


def objects_of(split: str, size: int | None = None) -> list[Documented]:
    """The objects of a split, of as many of the library as `size` says. Arguments and errors as of `questions`."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r}; use {', '.join(SPLITS)}")
    documented, side = standard_library().documented, "train" if split == "rephrased" else split
    chosen = {item.name for item in sorted(documented, key=lambda item: draw("world", item.name))[:size]}
    objects = [i for i in documented if i.name in chosen and side_of(_content(i.sentence), SHARES) == side]
    if not objects:
        raise UserError(f"stdlib:{size}: none of these objects is in the {split} split; ask for more of them")
    return objects


def _content(sentence: str) -> str:
    """What two sentences that differ only in capitals and punctuation share."""
    return " ".join(words_of(sentence))


def _about_real(objects: list[Documented], everything: list[Documented]) -> list[tuple]:
    """(name, answer, is real, kind, decoy) of each object; decoys come from the next one with something else to say."""
    ring = sorted(everything, key=lambda item: draw("decoy", item.name))
    position = {item.name: i for i, item in enumerate(ring)}
    facts = []
    for item in objects:
        start = position[item.name] + 1
        others = (other.sentence for other in ring[start:] + ring[:start])
        decoy = next((other for other in others if _content(other) != _content(item.sentence)), "")
        facts.append((item.name, item.sentence, True, item.kind, decoy))
    return facts
