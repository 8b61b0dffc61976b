"""How much of its training text a model goes on with word for word (Carlini et al. 2022, 2202.07646).

    verbatim = share of windows x_1 .. x_{P+C} with argmax p(. | x_1 .. x_t) = x_{t+1} for every t = P .. P+C-1

That is what greedy decoding of C tokens after the first P would write, found by one pass over the window: the first
token that differs ends both. Held-out text gives the rate of what can be guessed, and the difference is what was learnt
by heart. One window of each document, at a place that the seed draws.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from ...tokenization.encoding import encode_documents
from ..alignment.answering import batches
from ..data.corpus import Document, read_documents
from ..options.base import UserError
from ..options.evaluate import EvaluateOptions
from .likelihood import Opened
from .measured import Values, shares

SPARE = 2  # times as many documents are drawn, as some have too few tokens


class Window(NamedTuple):
    document: str
    ids: np.ndarray  # (P + C,)


def memorization(opened: Opened, options: EvaluateOptions) -> dict[str, dict[str, Values]]:
    """The figures of each split."""
    size = options.prefix_tokens + options.continuation_tokens
    if size > opened.length:
        raise UserError(
            f"--prefix_tokens {options.prefix_tokens} and --continuation_tokens {options.continuation_tokens} are more "
            f"than the {opened.length} tokens that the model reads at once"
        )
    found = {}
    for split, name in (("train", "training text"), ("validation", "held-out text")):
        windows = draw_windows(opened.tokenizer, options, split)
        if not windows:
            raise UserError(f"--memorization: no document of the {split} split has {size} tokens; ask for fewer")
        lengths = matching_lengths(opened, [window.ids for window in windows], options.prefix_tokens)
        about = b"".join(window.ids.tobytes() for window in windows)
        found[f"memorization, {name}"] = {
            "verbatim": shares((lengths == options.continuation_tokens).tolist(), "windows")._replace(about=about),
            "matching_tokens": Values(lengths.astype(float), np.ones(len(lengths)), "windows", about=about),
        }
    return found


def draw_windows(tokenizer, options: EvaluateOptions, split: str) -> list[Window]:
    """At most as many as --memorization says, of different documents."""
    size, rng = options.prefix_tokens + options.continuation_tokens, np.random.default_rng([options.seed, 0])
    documents = read_documents(options.texts, split, options.text_column)
    # A token has a byte at least: what is shorter than that need not be encoded to be left out.
    long_enough = (d for d in documents if len(d.text.encode("utf-8", "surrogatepass")) >= size)
    chosen = _reservoir(long_enough, SPARE * options.memorization, rng)
    windows = []
    for document in chosen:
        (ids,) = encode_documents(tokenizer, [document.text])
        if len(ids) >= size and len(windows) < options.memorization:
            begin = int(rng.integers(len(ids) - size + 1))
            windows.append(Window(document.name, np.array(ids[begin : begin + size])))
    return windows


def _reservoir(documents: Iterator[Document], count: int, rng: np.random.Generator) -> list[Document]:
    """`count` of them, each set of so many as likely as any other, in an order as random (Waterman's algorithm R)."""
    kept = []
    for number, document in enumerate(documents):
        if number < count:
            kept.append(document)
        elif (place := int(rng.integers(number + 1))) < count:
            kept[place] = document
    return [kept[i] for i in rng.permutation(len(kept))]


@torch.no_grad()
def matching_lengths(opened: Opened, windows: list[np.ndarray], prefix: int) -> np.ndarray:
    """How many tokens after the prefix are the likeliest ones, up to the first that is not."""
    autocast = opened.autocast or partial(torch.autocast, opened.model.device.type, enabled=False)
    lengths = []
    groups = list(batches(windows, opened.batch_size))
    for batch in tqdm(groups, desc="memorization", unit="batch", leave=False, disable=None):
        ids = torch.from_numpy(np.stack(batch).astype(np.int64)).to(opened.model.device)  # (B, P + C)
        with autocast():
            guesses = opened.model(input_ids=ids[:, :-1], use_cache=False).logits[:, prefix - 1 :].argmax(-1)  # (B, C)
        lengths += (guesses == ids[:, prefix:]).long().cumprod(1).sum(1).tolist()
    return np.array(lengths)
