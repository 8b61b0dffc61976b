"""Held-out loss: the probability that a model gives to each token of some documents, every token counted once.

A document longer than the model's context is read through a sliding window: each step moves the window by `stride`
tokens and counts only those, so that each has at least `length - stride` tokens of context where the document has them.

    bits per byte = nats of all tokens / ln 2 / bytes of the text

which, unlike perplexity, compares models with different tokenizers.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from ..data.tokens import IGNORED, TokenStream


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


@torch.no_grad()
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
    todo.sort(key=lambda window: window[2] - window[1])  # equal lengths together: little padding
    nats, targets = np.zeros(len(documents)), np.zeros(len(documents))
    was_training = model.training
    model.eval()
    logits = logits or (lambda ids: model(input_ids=ids, use_cache=False).logits)
    batches = [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)]
    index, count = (parallel.data_index, parallel.data_count) if parallel else (0, 1)
    rounds = range(0, len(batches), count)
    for first in tqdm(rounds, desc="evaluating", unit="batch", disable=not show_progress, leave=False):
        batch = batches[(first + index) % len(batches)]  # sharded weights are gathered by all processes or by none
        is_ours = first + index < len(batches)
        values = _score_batch(logits, documents, batch, autocast, model.device)
        for (d, _, end, target), value in zip(batch, values, strict=True):
            nats[d] += value * is_ours
            targets[d] += (end - target) * is_ours
    model.train(was_training)
    if count > 1:
        nats, targets = (parallel.sum(torch.from_numpy(x).to(model.device)).cpu().numpy() for x in (nats, targets))
    full = np.array([max(len(ids) - 1, 1) for ids in documents])
    return Score(nats, targets, stream.num_bytes * targets / full)


def _score_batch(logits, documents, batch, autocast, device) -> list[float]:
    longest = max(end - begin for _, begin, end, _ in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    labels = torch.full((len(batch), longest), IGNORED)
    for row, (d, begin, end, target) in enumerate(batch):  # padding comes after what is scored, and is not seen by it
        ids[row, : end - begin] = torch.from_numpy(documents[d][begin:end].astype(np.int64))
        labels[row, target - begin : end - begin] = ids[row, target - begin : end - begin]
    ids, labels = ids.to(device), labels.to(device)
    with autocast() if autocast else torch.autocast(device.type, enabled=False):
        scores = logits(ids)
    losses = F.cross_entropy(
        scores[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view(len(batch), -1).double().sum(1).tolist()
