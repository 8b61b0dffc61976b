"""The probability of a text after another one.

    log p(c | x) = sum_t log p(c_t | x, c_<t)

Prompt and continuation are encoded together and then cut where the prompt alone would end, as lm-evaluation-harness
does (Gao et al. 2021); spaces at the end of a prompt go to the continuation first, because most tokenizers put a space
before a word into the word's token. A BOS comes first where the tokenizer has one, as in training.
"""

from typing import NamedTuple

import numpy as np

from ...tokenization.encoding import encode_prompt
from ..options.base import UserError
from ..training.scoring import score_ends


class Opened(NamedTuple):
    """A model, how it is called, and how much it reads at once."""

    model: object
    tokenizer: object
    length: int  # tokens
    batch_size: int
    autocast: object = None


class Likelihood(NamedTuple):
    log_likelihood: float  # nats
    tokens: int  # that are scored
    is_cut: bool  # the prompt was too long, and lost its beginning


def encode_pair(tokenizer, prompt: str, continuation: str) -> tuple[list[int], int]:
    """(ids of both, number of the first one that belongs to the continuation)."""
    kept = prompt.rstrip()
    continuation = prompt[len(kept) :] + continuation
    whole, before = encode_prompt(tokenizer, kept + continuation), encode_prompt(tokenizer, kept)
    if not before:  # nothing precedes the first token, and a tokenizer without BOS: EOS ends another document
        if tokenizer.eos_token_id is None:
            raise UserError("a text without a prompt needs a tokenizer with a BOS or an EOS token")
        return [tokenizer.eos_token_id, *whole], 1
    return whole, min(len(before), len(whole) - 1)


def log_likelihoods(opened: Opened, pairs: list[tuple[str, str]], show_progress: bool = True) -> list[Likelihood]:
    """Of each (prompt, continuation).

    Raises:
        UserError: a continuation that is longer than the model's context.
    """
    encoded = [encode_pair(opened.tokenizer, *pair) for pair in pairs]
    for (ids, first), (_, continuation) in zip(encoded, pairs, strict=True):
        if len(ids) - first > opened.length:
            raise UserError(
                f"{continuation[:40]!r}... has {len(ids) - first} tokens; the model reads {opened.length} at once"
            )
    documents = [np.array(ids) for ids, _ in encoded]
    firsts = [first for _, first in encoded]
    nats = score_ends(opened.model, documents, firsts, opened.length, opened.batch_size, opened.autocast, show_progress)
    return [
        Likelihood(-float(values.sum()), len(values), len(ids) - 1 > opened.length)
        for values, ids in zip(nats, documents, strict=True)
    ]
