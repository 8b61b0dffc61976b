"""Pairs of a better and a worse answer to one question.

    kind                    chosen           rejected
    another                 the right one    the answer to another question
    truncated               the right one    its first half
    invented                the right one    its first half, continued with the end of another
    wrong_abstention        the right one    "I don't know."
    missing_abstention      "I don't know."  the documentation of the object whose name was borrowed

`FOR_POLICY` leaves out `another`. Measured with 1.4M parameters: such pairs lift the reward model (right against wrong
from .72 to .96) and hurt DPO (judge .80 to .67), which learns from them to make true sentences less likely.

`sampled_pairs` makes pairs of a model's own answers, ranked by the judge in place of people (Ouyang et al. 2022,
InstructGPT, arXiv 2203.02155).
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from ..data.words import words_of
from .drawing import draw
from .judge import ABSTENTION, judge
from .questions import Question

KINDS = ("another", "truncated", "invented", "wrong_abstention", "missing_abstention")
FOR_POLICY = tuple(kind for kind in KINDS if kind != "another")


class Pair(NamedTuple):
    kind: str
    chosen: str
    rejected: str


def pairs(question: Question, seed: int = 0) -> list[Pair]:
    """The pairs of one question: one of each kind that it allows."""
    if not question.is_real:
        return [Pair("missing_abstention", ABSTENTION, question.decoy)]
    right = question.answer
    rejected = {
        "another": question.decoy,
        "truncated": _truncated(right, draw("cut", seed, question.prompt)),
        "invented": _spliced(right, question.decoy),
        "wrong_abstention": ABSTENTION,
    }
    return [Pair(kind, right, wrong) for kind, wrong in rejected.items() if wrong and _differ(wrong, right)]


def _differ(text: str, other: str) -> bool:
    return words_of(text) != words_of(other)


def _truncated(text: str, position: float) -> str:
    """The first third to two thirds of the words, cut as a limit on the length would cut."""
    words = text.split()
    return " ".join(words[: max(1, round(len(words) * (1 + position) / 3))])


def _spliced(text: str, other: str) -> str:
    """The beginning of one and the end of the other; nothing where there is no other or that is it as it stands."""
    if not other:
        return ""
    first, second = text.split(), other.split()
    spliced = " ".join(first[: (len(first) + 1) // 2] + second[len(second) // 2 :])
    return spliced if _differ(spliced, other) else ""


def sampled_pairs(
    rows: Iterable[Mapping], samples: Sequence[Sequence[str]], seed: int = 0, margin: float = 0.15, per_prompt: int = 3
) -> list[dict]:
    """Preference rows of a model's own answers, the right one and the abstention among them.

    Args:
        rows: of `prompt_dataset`.
        samples: the answers to each row.
        margin: the judge's scores of the two differ by at least this much.
        per_prompt: as many pairs of one prompt, drawn by the seed.
    """
    found = []
    for number, (row, answers) in enumerate(zip(rows, samples, strict=True)):
        candidates = dict.fromkeys([*(answer.strip() for answer in answers), row["reference"], ABSTENTION])
        scores = {text: judge(row["reference"], row["is_real"], text) for text in candidates}
        ranked = sorted(scores, key=scores.get, reverse=True)
        apart = [(a, b) for a, b in combinations(ranked, 2) if scores[a] - scores[b] >= margin]
        apart.sort(key=lambda pair: draw("pair", seed, number, *pair))
        found += [preference(row["prompt"], Pair("sampled", *pair)) for pair in apart[:per_prompt]]
    return found


def preference(prompt: list[dict], pair: Pair) -> dict:
    """A row in trl's conversational format."""
    return {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
        "kind": pair.kind,
    }
