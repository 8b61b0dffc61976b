"""Questions in words whose answer is a calculation: "Add 12 and 7." -> 12 + 7.

Every number that a question has is of one split alone: who has only learned sums by heart fails on the others.
"""

from collections.abc import Iterator
from typing import NamedTuple

from .drawing import draw, side_of
from .questions import SHARES

LARGEST = 999
# Each with its expression. In some the numbers change places on the way, so that copying in order is not enough.
PHRASINGS = (
    ("What is {a} + {b}?", "{a} + {b}"),
    ("What is {a} - {b}?", "{a} - {b}"),
    ("What is {a} * {b}?", "{a} * {b}"),
    ("Add {a} and {b}.", "{a} + {b}"),
    ("How much is {a} plus {b}?", "{a} + {b}"),
    ("How much is {a} minus {b}?", "{a} - {b}"),
    ("Subtract {a} from {b}.", "{b} - {a}"),
    ("How much is {a} times {b}?", "{a} * {b}"),
    ("Multiply {a} by {b}.", "{a} * {b}"),
    ("What remains when {a} is divided by {b}?", "{a} % {b}"),
    ("Add {a} and {b}, then multiply by {c}.", "({a} + {b}) * {c}"),
    ("Take {a} from {b}, then double it.", "({b} - {a}) * 2"),
)
HELD_OUT_PHRASINGS = (
    ("Please add {a} and {b}.", "{a} + {b}"),
    ("Tell me how much {a} minus {b} is.", "{a} - {b}"),
    ("Please subtract {a} from {b}.", "{b} - {a}"),
    ("Tell me what {a} times {b} is.", "{a} * {b}"),
)


class Sum(NamedTuple):
    question: str
    expression: str


def sums(split: str, count: int) -> Iterator[Sum]:
    """`count` questions with the numbers of the split."""
    side = "train" if split == "rephrased" else split
    numbers = [n for n in range(1, LARGEST + 1) if side_of(f"operand {n}", SHARES) == side]
    phrasings = PHRASINGS if split in ("train", "validation") else HELD_OUT_PHRASINGS
    for i in range(count):
        a, b, c = (numbers[int(draw("operand", split, i, which) * len(numbers))] for which in "abc")
        question, expression = phrasings[i % len(phrasings)]
        yield Sum(question.format(a=a, b=b, c=c), expression.format(a=a, b=b, c=c))
