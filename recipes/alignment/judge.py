"""A judge that is a program: how good is an answer to a question of `questions`?

    real name       ROUGE-L of the answer against the documentation; 0.2 for an abstention
    invented name   1 for an abstention, 0 for anything else

ROUGE-L (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries"): with L the longest common subsequence of
the words, P = L / words of the answer, R = L / words of the reference, the score is their harmonic mean,
F = 2 P R / (P + R) = 2 L / (both lengths added). On English text it equals the `rouge-score` package without stemming.
That package is not imported: it brings nltk and absl, its last release is of 2022, and it drops every letter outside
a-z, so that a Russian answer has no words. Ours keeps the letters of all scripts.

An abstention on a real name earns a little: to be wrong is worse than to say nothing, but a wrong sentence, too, shares
a few words with the right one.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from ..data.words import words_of

ABSTENTION = "I don't know."
ABSTENTION_ON_REAL = 0.2
# One clause and nothing after it: "I don't know, but it returns a list." asserts something.
ABSTAINS = re.compile(r"i (?:don't|do not) know(?: [^,;:!?()\n]*?)?[.!]?")
SECOND_SENTENCE = re.compile(r"[.!?]\s|\b(?:but|however|although|though)\b")


def rouge_l(reference: str, answer: str) -> float:
    """The F-measure of ROUGE-L, from 0 to 1; 0 where either has no words."""
    a, b = words_of(reference), words_of(answer)
    return 2 * _common_subsequence(a, b) / (len(a) + len(b)) if a and b else 0.0


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence, one row of the table at a time."""
    before = [0] * (len(b) + 1)
    for word in a:
        row = [0]
        for j, other in enumerate(b):
            row.append(before[j] + 1 if word == other else max(row[j], before[j + 1]))
        before = row
    return before[-1]


def abstains(answer: str) -> bool:
    """Whether the answer is an abstention and nothing else."""
    folded = " ".join(answer.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").lower().split())
    return bool(ABSTAINS.fullmatch(folded)) and not SECOND_SENTENCE.search(folded)


def judge(reference: str, is_real: bool, answer: str) -> float:
    """The score of one answer, from 0 to 1.

    Args:
        reference: the right answer; not read where the name is invented.
        is_real: whether the name that was asked for exists.
    """
    if abstains(answer):
        return ABSTENTION_ON_REAL if is_real else 1.0
    return rouge_l(reference, answer) if is_real else 0.0


def measure(rows: Iterable[Mapping], answers: Sequence[str]) -> dict[str, float]:
    """What a set of answers is worth. `rows` are those of `prompt_dataset`, with `reference` and `is_real`.

    Returns:
        judge: the mean score; exact_on_real: the share of real names answered word for word, spaces aside;
        abstention_precision: of the abstentions, the share on invented names; abstention_recall: of the invented names,
        the share abstained on; n, n_invented, n_abstained: the counts behind them. A share of nothing is 0.

    Raises:
        ValueError: no answer, or not one for each row.
    """
    rows = list(rows)
    if not rows or len(rows) != len(answers):
        raise ValueError(f"{len(answers)} answers to {len(rows)} rows; give one for each, and at least one")
    real = [bool(row["is_real"]) for row in rows]
    abstained = [abstains(answer) for answer in answers]
    exact = sum(
        is_real and row["reference"].split() == answer.split()
        for row, is_real, answer in zip(rows, real, answers, strict=True)
    )
    right = sum(a and not r for a, r in zip(abstained, real, strict=True))
    scores = [judge(row["reference"], r, answer) for row, r, answer in zip(rows, real, answers, strict=True)]
    return {
        "judge": sum(scores) / len(rows),
        "exact_on_real": _share(exact, sum(real)),
        "abstention_precision": _share(right, sum(abstained)),
        "abstention_recall": _share(right, len(rows) - sum(real)),
        "n": len(rows),
        "n_invented": len(rows) - sum(real),
        "n_abstained": sum(abstained),
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def judge_reward(prompts, completions, reference, is_real=None, **kwargs) -> list[float | None]:
    """`judge` as a reward function of trl's trainers; `reference` and `is_real` are columns of `prompt_dataset`.

    Without `is_real`, a reference that abstains is that of an invented name. None where the reference is None.
    """
    is_real = is_real or [not abstains(r or "") for r in reference]
    texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
    rows = zip(reference, is_real, texts, strict=True)
    return [None if r is None else judge(r, real, text) for r, real, text in rows]
