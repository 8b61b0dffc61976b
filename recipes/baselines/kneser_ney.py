"""N-gram counts with interpolated Kneser-Ney smoothing, for n-grams of any length over any vocabulary.

    P_n(w | h) = max(N(hw) - D_n, 0) / N(h.) + D_n U(h.) / N(h.) * P_{n-1}(w | h')

N counts occurrences for the longest n-grams and distinct left neighbours for shorter ones, U(h.) is the number of
distinct tokens seen after h, h' drops the oldest token of h, D_n = n1 / (n1 + 2 n2) from the numbers of n-grams that
count once and twice (Kneser and Ney 1995; Chen and Goodman 1999, section 2.7). Below single tokens the uniform
distribution stands. After a context that was never seen, P_n is P_{n-1}.

Documents are separate. Each beginning is a left neighbour of its own, so an n-gram at the beginning counts every time,
as in SRILM and KenLM (Heafield et al. 2013, section 3). The first token is given and not predicted: BOS has no share.

The n-grams of a length are sorted 64-bit integers,

    key = (index of its first n - 1 tokens among the shorter ones) * V + its last token

so everything is sorting and searching. Fitting needs about 60 bytes of memory a token, what is kept 16 an n-gram.
Legend: V vocabulary, N tokens or positions.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

COUNTED = 2**25  # so many different keys are counted in a table; more are sorted, which takes less memory and more time
ABSENT = -1  # the index of an n-gram that was not seen; as a context, its keys are below all others


class Level(nn.Module):
    """The n-grams of one length with their counts, as a running sum: the total of a context is one difference."""

    def __init__(self, num_grams: int, vocab_size: int, discount: float | None):
        super().__init__()
        self.vocab_size, self.given_discount = vocab_size, discount
        self.register_buffer("keys", torch.zeros(num_grams, dtype=torch.int64))
        self.register_buffer("cumulative", torch.zeros(num_grams + 1, dtype=torch.int64))
        self.register_buffer("counts_of_counts", torch.zeros(2, dtype=torch.int64))  # n1 and n2

    def set(self, keys: torch.Tensor, counts: torch.Tensor) -> None:
        self.keys, self.cumulative = keys, F.pad(counts.cumsum(0), (1, 0))
        self.counts_of_counts = torch.stack([(counts == 1).sum(), (counts == 2).sum()])

    @property
    def discount(self) -> float:
        once, twice = self.counts_of_counts.tolist()
        if self.given_discount is not None:
            return self.given_discount
        return once / (once + 2 * twice) if once else 0.5  # without n-grams seen once there is no estimate

    def find(self, contexts: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The index of each n-gram, or `ABSENT`."""
        if len(self.keys) == 0:
            return torch.full_like(tokens, ABSENT)
        keys = contexts * self.vocab_size + tokens
        index = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
        return torch.where(self.keys[index] == keys, index, ABSENT)

    def after(self, contexts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(first, last + 1) of the n-grams that begin with each context, and the total N(h.) of their counts."""
        first, last = torch.searchsorted(self.keys, torch.stack([contexts, contexts + 1]) * self.vocab_size)
        return first, last, self.cumulative[last] - self.cumulative[first]

    def counts(self, grams: torch.Tensor) -> torch.Tensor:
        return self.cumulative[grams + 1] - self.cumulative[grams]


class KneserNey(nn.Module):
    """The smoothed n-grams up to the length `order`; `num_grams` of each length make room for stored ones."""

    def __init__(self, vocab_size: int, order: int, discounts: list | None = None, num_grams: list | None = None):
        super().__init__()
        if order < 1:
            raise ValueError(f"order={order} must be above 0")
        self.vocab_size, self.order = vocab_size, order
        discounts, num_grams = discounts or [None] * order, num_grams or [0] * order
        self.levels = nn.ModuleList(Level(n, vocab_size, d) for n, d in zip(num_grams, discounts, strict=True))

    def fit(self, documents: Iterable) -> "KneserNey":
        """Count the n-grams of documents, each a sequence of ids; what was counted before is forgotten."""
        documents = [torch.tensor(np.asarray(document), dtype=torch.int64) for document in documents]
        if not any(len(document) > 1 for document in documents):
            raise ValueError("there is nothing to count: no document has two tokens")
        ids, depth = torch.cat(documents), torch.cat([torch.arange(len(document)) for document in documents])
        low, high = ids.min().item(), ids.max().item()
        if low < 0 or high >= self.vocab_size:
            raise ValueError(f"the documents have ids from {low} to {high}; vocab_size={self.vocab_size} is too small")
        counts = torch.bincount(ids[depth > 0], minlength=self.vocab_size)
        keys, index = None, ids  # of n-grams of the length at hand; single tokens are their own index
        for length in range(2, self.order + 1):
            here = (depth >= length - 1).nonzero()[:, 0]  # where n-grams of this length end
            longer, inverse, occurrences = _unique(
                index[here - 1] * self.vocab_size + ids[here], bound=len(counts) * self.vocab_size
            )
            shorter = torch.empty_like(longer)
            shorter[inverse] = index[here]  # what is left of each without its first token
            neighbours = torch.bincount(shorter, minlength=len(counts))
            if length > 2:
                neighbours += torch.bincount(index[depth == length - 2], minlength=len(counts))  # beginnings
            self._store(length - 1, keys, neighbours)
            keys, counts, index = longer, occurrences, torch.zeros_like(ids)
            index[here] = inverse
        self._store(self.order, keys, counts)
        return self

    def _store(self, length: int, keys: torch.Tensor | None, counts: torch.Tensor) -> None:
        if keys is None:  # single tokens: only those that were seen
            keys = counts.nonzero()[:, 0]
            counts = counts[keys]
        self.levels[length - 1].set(keys, counts)

    def check_fitted(self) -> None:
        if len(self.levels[0].keys) == 0:
            raise ValueError("the n-gram model has no counts: call fit(documents) first, or load a fitted one")

    def contexts(self, ids: torch.Tensor, depth: torch.Tensor) -> list[torch.Tensor]:
        """For each length, the context of the token that comes after each position, or `ABSENT`; shapes as `ids`.

        `depth` counts the tokens of the same document before each one, see `documents.depths`.
        """
        self.check_fitted()
        contexts, index = [torch.zeros_like(ids)], ids
        for length in range(2, self.order + 1):
            contexts.append(index)
            if length < self.order:
                before = F.pad(index[..., :-1], (1, 0), value=ABSENT)
                before = torch.where(depth >= length - 1, before, ABSENT)
                index = self.levels[length - 1].find(before, ids)
        return contexts

    def distributions(self, contexts: list[torch.Tensor], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """P(w | h) of every token w, (N, V), from the contexts of N positions."""
        device = contexts[0].device
        single = torch.full((1, self.vocab_size), 1 / self.vocab_size, dtype=dtype, device=device)
        self._interpolate_all(self.levels[0], torch.zeros(1, dtype=torch.int64, device=device), single)
        probabilities = single.repeat(len(contexts[0]), 1)
        for level, context in zip(self.levels[1:], contexts[1:], strict=True):
            self._interpolate_all(level, context, probabilities)
        return probabilities

    def _interpolate_all(self, level: Level, contexts: torch.Tensor, lower: torch.Tensor) -> None:
        """P_{n-1} becomes P_n in place: scaled everywhere, and raised at the tokens that were seen."""
        first, last, total = level.after(contexts)
        followers = last - first
        share = level.discount * followers.to(lower.dtype) / total.clamp(min=1)
        lower *= torch.where(total > 0, share, 1)[:, None]
        row = torch.repeat_interleave(followers)
        grams = torch.arange(len(row), device=row.device) + (first - followers.cumsum(0) + followers)[row]
        kept = (level.counts(grams).to(lower.dtype) - level.discount).clamp_(min=0) / total[row]
        lower.view(-1).index_add_(0, row * self.vocab_size + level.keys[grams] % self.vocab_size, kept)

    def probabilities(self, ids: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        """P(token | the tokens of its document before it) of each of `ids` (N,), in float64."""
        probabilities = torch.full(ids.shape, 1 / self.vocab_size, dtype=torch.float64, device=ids.device)
        for level, context in zip(self.levels, self.contexts(ids, depth), strict=True):
            before = torch.zeros_like(ids)
            if level is not self.levels[0]:
                before = torch.where(depth > 0, F.pad(context[:-1], (1, 0)), ABSENT)
            first, last, total = level.after(before)
            gram = level.find(before, ids)
            count = torch.where(gram == ABSENT, 0, level.counts(gram)).double()
            kept = (count - level.discount).clamp_(min=0)
            mixed = (kept + level.discount * (last - first).double() * probabilities) / total
            probabilities = torch.where(total > 0, mixed, probabilities)
        return probabilities


def _unique(keys: torch.Tensor, bound: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(the distinct keys in order, the place of each key among them, how often each occurs); all are below `bound`."""
    if bound <= COUNTED:
        counts = torch.bincount(keys, minlength=bound)
        is_seen = counts > 0
        return is_seen.nonzero()[:, 0], (is_seen.cumsum(0) - 1)[keys], counts[is_seen]
    ordered, order = keys.sort()
    distinct, run, counts = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    place = torch.empty_like(order)
    place[order] = run
    return distinct, place, counts
