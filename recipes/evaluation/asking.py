"""What a model makes of a task: which choice it finds likeliest, or what it writes.

    accuracy              log p(choice | prompt)
    accuracy_per_token    the same divided by the choice's tokens
    accuracy_per_byte     the same divided by the choice's bytes, which depends on no tokenizer

The choice is the first of those that score highest, as in lm-evaluation-harness. A pair of sentences is the same
question without a prompt, by the first measure alone (BLiMP, Warstadt et al. 2020).
What a model writes, greedily, is right when it equals a reference after both were made alike.
"""

import re
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ...tokenization.encoding import encode_prompt
from ..alignment.answering import batches
from ..generation.writing import pad_token, write
from ..options.base import UserError
from .likelihood import Opened, log_likelihoods
from .measured import Values, shares
from .rendering import Example
from .task import Task


class Outcome(NamedTuple):
    """The figures of a task, and what --per_example tells about each example."""

    values: dict[str, Values]
    details: list[dict]
    cut: int  # examples whose prompt lost its beginning


def ask(opened: Opened, task: Task, examples: list[Example]) -> Outcome:
    try:
        return _write(opened, task, examples) if task.options.kind == "generation" else _choose(opened, task, examples)
    except UserError as error:
        raise UserError(f"--tasks {task.name}: {error}") from error


def _choose(opened: Opened, task: Task, examples: list[Example]) -> Outcome:
    pairs = [(e.context, e.delimiter + choice) for e in examples for choice in e.choices]
    found, details, cut = iter(log_likelihoods(opened, pairs)), [], 0
    for example in examples:
        likelihoods = [next(found) for _ in example.choices]
        sums = np.array([one.log_likelihood for one in likelihoods])
        scores = {"accuracy": sums}
        if task.options.kind == "multiple_choice":
            scores["accuracy_per_token"] = sums / [one.tokens for one in likelihoods]
            scores["accuracy_per_byte"] = sums / [len(choice.encode()) for choice in example.choices]
        cut += any(one.is_cut for one in likelihoods)
        details.append(
            {
                "row": example.where,
                "prompt": example.context,
                "choices": example.choices,
                "right": example.right,
                "log_likelihoods": sums.tolist(),
                **{name: is_best(values, example.right) for name, values in scores.items()},
            }
        )
    return Outcome({name: shares([row[name] for row in details]) for name in scores}, details, cut)


def is_best(scores: np.ndarray, right: int) -> bool:
    """Whether the right one is the first of the highest."""
    return int(scores.argmax()) == right


def _write(opened: Opened, task: Task, examples: list[Example]) -> Outcome:
    options, tokenizer = task.options, opened.tokenizer
    room = opened.length - options.max_new_tokens
    if room < 1:
        raise UserError(f"max_new_tokens={options.max_new_tokens}, and the model reads {opened.length} tokens at once")
    prompts = [encode_prompt(tokenizer, e.context) for e in examples]
    settings = {"max_new_tokens": options.max_new_tokens, "do_sample": False, "pad_token_id": pad_token(tokenizer)}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # equal lengths together: little padding
    texts = {}
    for batch in tqdm(list(batches(order, opened.batch_size)), desc="writing", unit="batch", leave=False, disable=None):
        new = write(opened.model, tokenizer, [prompts[i][-room:] for i in batch], settings, options.until)
        written = tokenizer.batch_decode(new, skip_special_tokens=True)
        texts |= {i: until(text, options.until) for i, text in zip(batch, written, strict=True)}
    details = []
    for i, example in enumerate(examples):
        answer = alike(texts[i], options.extract, options.ignore)
        right = answer is not None and answer in [reference(text, options) for text in example.references]
        row = {"row": example.where, "prompt": example.context, "written": texts[i], "answer": answer}
        details.append(row | {"references": example.references, "exact_match": right})
    cut = sum(len(prompt) > room for prompt in prompts)
    return Outcome({"exact_match": shares([row["exact_match"] for row in details])}, details, cut)


def until(text: str, ends: list[str]) -> str:
    """The text up to the first of the ends, if one is there."""
    return text[: min((text.index(end) for end in ends if end in text), default=len(text))]


def alike(text: str, extract: str, ignore: list[str]) -> str | None:
    """What of a text is compared; None where `extract`, or its group, finds nothing."""
    if extract:
        match = re.search(extract, text)
        text = match and (match[1] if match.re.groups else match[0])
        if text is None:  # a group may find nothing, too, where the expression does without it
            return None
    for pattern in ignore:
        text = re.sub(pattern, "", text)
    return " ".join(text.split())


def reference(text: str, options) -> str:
    """A reference may be the whole solution, or the answer that `extract` would find in it."""
    found = alike(text, options.extract, options.ignore)
    return alike(text, "", options.ignore) if found is None else found
