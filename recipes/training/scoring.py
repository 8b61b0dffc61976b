"""Held-out loss: the probability that a model gives to each token of some documents, every token counted once.

A document longer than the model's context is read through a sliding window: each step moves the window by `stride`
tokens and counts only those, so that each has at least `length - stride` tokens of context where the document has them.

    bits per byte = nats of all tokens / ln 2 / bytes of the text

which, unlike perplexity, compares models with different tokenizers.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from inspect import signature

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from ..data.tokens import TokenStream


@dataclass
class Score:
    """Nats, targets and bytes of each document; the totals are the properties."""

    nats: np.ndarray
    targets: np.ndarray
    num_bytes: np.ndarray

    @property
    def loss(self) -> float:
        """Nats per token."""
        return float(self.nats.sum() / self.targets.sum())

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        return float(self.nats.sum() / math.log(2) / self.num_bytes.sum())


def windows(tokens: int, length: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, first target) of each window over a document; targets are positions 1 to `tokens` - 1, once each.

    Raises:
        ValueError: a stride that leaves no token of context.
    """
    if not 0 < stride < length:
        raise ValueError(f"stride={stride} in a window of length={length}; use 1 to {length - 1}")
    begin, end, target = 0, min(length, tokens), 1
    while target < tokens:
        yield begin, end, target
        target, end = end, min(end + stride, tokens)
        begin = max(0, end - length)


def score_documents(
    model,
    stream: TokenStream,
    length: int,
    stride: int,
    batch_size: int = 8,
    autocast=None,
    max_tokens: int | None = None,
    show_progress: bool = False,
    logits: Callable[[torch.Tensor], torch.Tensor] | None = None,
    parallel=None,
) -> Score:
    """Score the documents of `stream` with windows of `length` tokens that move by `stride`.

    With `max_tokens`, windows drawn from all documents, the same at each call, are scored until there are that many
    targets, and the bytes of each document are counted in proportion. With `parallel`, every process scores a part of
    them and has the whole result. `logits` maps (B, T) ids to (B, T, V); none is the model's own forward pass.
    """
    documents = stream.documents()
    todo = [(d, *w) for d, ids in enumerate(documents) for w in windows(len(ids), length, stride)]
    if max_tokens is not None:
        order = np.random.default_rng(0).permutation(len(todo))  # every n-th could be every document's first
        targets = np.cumsum([todo[i][2] - todo[i][3] for i in order])
        todo = [todo[i] for i in order[: np.searchsorted(targets, max_tokens) + 1]]
    nats, targets = np.zeros(len(documents)), np.zeros(len(documents))
    for i, values in _scored(model, documents, todo, batch_size, autocast, show_progress, logits, parallel):
        nats[todo[i][0]] += values.sum()
        targets[todo[i][0]] += len(values)
    if parallel and parallel.data_count > 1:
        nats, targets = (parallel.sum(torch.from_numpy(x).to(model.device)).cpu().numpy() for x in (nats, targets))
    full = np.array([max(len(ids) - 1, 1) for ids in documents])
    return Score(nats, targets, stream.num_bytes * targets / full)


def score_ends(
    model,
    documents: Sequence[np.ndarray],
    firsts: list[int],
    length: int,
    batch_size: int = 8,
    autocast=None,
    show_progress: bool = False,
) -> list[np.ndarray]:
    """The nats of each token of each document from its `first` on, after at most `length` tokens in all.

    Raises:
        ValueError: an end that is longer than `length`.
    """
    todo = [
        (d, max(0, len(ids) - 1 - length), len(ids), first)
        for d, (ids, first) in enumerate(zip(documents, firsts, strict=True))
    ]
    for _, begin, end, first in todo:
        if first <= begin:
            raise ValueError(f"{end - first} tokens are to be scored with a context of {length}")
    nats = dict(_scored(model, documents, todo, batch_size, autocast, show_progress))
    return [nats[i] for i in range(len(todo))]


@torch.no_grad()
def _scored(
    model, documents, todo, batch_size, autocast, show_progress, logits=None, parallel=None
) -> Iterator[tuple[int, np.ndarray]]:
    """(number of a window, the nats of its targets) for each window that is this process's to score."""
    order = sorted(range(len(todo)), key=lambda i: todo[i][2] - todo[i][1])  # equal lengths together: little padding
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    index, count = (parallel.data_index, parallel.data_count) if parallel else (0, 1)
    logits = _all_logits(logits) if logits else _last_logits(model)
    was_training = model.training
    model.eval()
    rounds = range(0, len(batches), count)
    for first in tqdm(rounds, desc="evaluating", unit="batch", disable=None if show_progress else True, leave=False):
        batch = batches[(first + index) % len(batches)]  # sharded weights are gathered by all processes or by none
        values = _score_batch(logits, documents, [todo[i] for i in batch], autocast, model.device)
        if first + index < len(batches):
            yield from zip(batch, values, strict=True)
    model.train(was_training)


def _all_logits(logits: Callable) -> Callable:
    return lambda ids, first: logits(ids)[:, first:]


def _last_logits(model) -> Callable:
    """(B, T) ids and a position -> the logits from that position on, which many models compute without the others."""
    knows = "logits_to_keep" in signature(model.forward).parameters

    def logits(ids: torch.Tensor, first: int) -> torch.Tensor:
        wanted = ids.shape[1] - first
        keep = {"logits_to_keep": wanted} if knows else {}
        return model(input_ids=ids, use_cache=False, **keep).logits[:, -wanted:]

    return logits


def _score_batch(logits, documents, batch, autocast, device) -> list[np.ndarray]:
    longest = max(end - begin for _, begin, end, _ in batch)
    first = min(target - begin for _, begin, _, target in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    for row, (d, begin, end, _) in enumerate(batch):  # padding comes after what is scored, and is not seen by it
        ids[row, : end - begin] = torch.from_numpy(np.asarray(documents[d][begin:end], np.int64))
    ids = ids.to(device)
    with autocast() if autocast else torch.autocast(device.type, enabled=False):
        scores = logits(ids[:, :-1], first - 1)  # (B, longest - first, V)
    losses = F.cross_entropy(scores.float().flatten(0, 1), ids[:, first:].flatten(), reduction="none")
    losses = losses.view(len(batch), -1).double().cpu().numpy()
    return [losses[row, t - b - first : e - b - first] for row, (_, b, e, t) in enumerate(batch)]
