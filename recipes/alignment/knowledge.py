"""What a model knows, by asking it: several answers to each question, how often they are right, how much they agree.

    right      share of the answers that the judge scores at least `right_from`
    agreement  mean ROUGE-L of two of the answers
    known      right >= known_from

A model that knows says the same thing each time, and one that makes things up says something else (Kadavath et al.
2022, arXiv:2207.05221; Manakul et al. 2023, arXiv:2303.08896). How far that holds is measured: the share of right
answers at each agreement, and the probability that of two questions the known one has the higher agreement (AUROC).
"""

import json
from itertools import combinations
from pathlib import Path

from sklearn.metrics import roc_auc_score
from transformers import set_seed

from ..data.words import words_of
from ..options.abstain import AbstainOptions
from ..options.base import UserError
from .answering import answer, encode_prompts, texts
from .judge import judge, rouge_l

BINS = 10


def ask(model, tokenizer, rows: list[dict], options: AbstainOptions, path: Path) -> list[dict]:
    """The rows with `answers`, `greedy`, `right`, `agreement`, `known`; written to `path` as they are made.

    What the file has from before a break stays: each block of questions has its own seed.
    """
    block = max(1, options.per_device_eval_batch_size // options.num_generations)
    found = _finished(path)[: len(rows)]
    if len(found) == len(rows):
        return found
    found = found[: len(found) // block * block]
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in found)
        for start in range(len(found), len(rows), block):
            set_seed((options.seed + start) % 2**32)
            made = _asked(model, tokenizer, rows[start : start + block], options)
            file.writelines(json.dumps(row) + "\n" for row in made)
            file.flush()
            found += made
    return found


def greedy(model, tokenizer, rows: list[dict], max_new_tokens: int, batch_size: int) -> list[str]:
    ids = encode_prompts(tokenizer, [row["prompt"] for row in rows])
    return texts(tokenizer, answer(model, tokenizer, ids, max_new_tokens, batch_size))


def agreement(answers: list[str]) -> float:
    """The mean over pairs; two without words agree if they are the same."""
    pairs = list(combinations(answers, 2))
    return sum(1.0 if words_of(a) == words_of(b) else rouge_l(a, b) for a, b in pairs) / len(pairs)


def is_right(row: dict, text: str, right_from: float) -> bool:
    return judge(row["reference"], row["is_real"], text) >= right_from


def agreement_bins(rows: list[dict]) -> list[dict]:
    """Bins of the agreement from 0 to 1: their mean agreement, mean share of right answers, and questions."""
    places = [min(int(row["agreement"] * BINS), BINS - 1) for row in rows]
    inside = [[row for row, place in zip(rows, places, strict=True) if place == i] for i in range(BINS)]
    means = (
        {key: sum(row[key] for row in some) / len(some) for key in ("agreement", "right")} for some in inside if some
    )
    counts = [len(some) for some in inside if some]
    return [mean | {"questions": count} for mean, count in zip(means, counts, strict=True)]


def separation(rows: list[dict]) -> float | None:
    """The probability that of a known and an unknown question the first has the higher agreement; 0.5 is chance."""
    known = [row["known"] for row in rows]
    return float(roc_auc_score(known, [row["agreement"] for row in rows])) if len(set(known)) == 2 else None


def _asked(model, tokenizer, rows: list[dict], options: AbstainOptions) -> list[dict]:
    count, batch_size = options.num_generations, options.per_device_eval_batch_size
    ids = [i for i in encode_prompts(tokenizer, [row["prompt"] for row in rows]) for _ in range(count)]
    how = {"do_sample": True, "temperature": options.temperature, "top_k": 0}
    said = texts(tokenizer, answer(model, tokenizer, ids, options.max_new_tokens, batch_size, **how))
    best = greedy(model, tokenizer, rows, options.max_new_tokens, batch_size)
    found = []
    for i, row in enumerate(rows):
        answers = said[i * count : (i + 1) * count]
        right = sum(is_right(row, text, options.right_from) for text in answers) / count
        judged = {"right": right, "agreement": agreement(answers), "known": right >= options.known_from}
        found.append(row | {"answers": answers, "greedy": best[i]} | judged)
    return found


def _finished(path: Path) -> list[dict]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]  # the last one a kill has cut off
    try:
        return [dict(json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged; delete it, and rhapsode abstain makes it again") from error


def read_questions(path: Path) -> list[dict]:
    """What `ask` wrote.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    if not (found := _finished(path)) or "greedy" not in found[0]:
        raise UserError(f"{path}: no questions; name the --output_dir of a run of rhapsode abstain")
    return found
