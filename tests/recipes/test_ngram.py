"""Kneser-Ney against a plain implementation with dictionaries, and against NLTK's."""

import random
import string
from collections import Counter, defaultdict
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode.recipes.baselines import kneser_ney
from rhapsode.recipes.baselines.documents import depths
from rhapsode.recipes.baselines.kneser_ney import KneserNey
from rhapsode.recipes.baselines.ngram import ByteNGram, NGramConfig, NGramForCausalLM

EXACT = 1e-12  # a handful of float64 operations on numbers of at most one
LOGITS = 1e-5  # the same in float32, and a logarithm of at most -20
letters = st.lists(st.integers(0, 4), max_size=40)
corpora = st.lists(letters, max_size=5).map(lambda documents: [*documents, [0, 1, 0]])


class Plain:
    """Interpolated Kneser-Ney in exact fractions, read off the definition."""

    def __init__(self, order: int, documents, vocab_size: int):
        self.order, self.vocab_size = order, vocab_size
        documents = [tuple(document) for document in documents]
        occurrences = {
            n: [(d, i, d[i : i + n]) for d in documents for i in range(len(d) - n + 1) if n > 1 or i > 0]
            for n in range(1, order + 1)
        }
        self.counts = {order: Counter(gram for _, _, gram in occurrences[order])}
        for n in range(1, order):
            neighbours = defaultdict(set)
            for place, (d, i, gram) in enumerate(occurrences[n]):
                neighbours[gram].add(("begins", place) if i == 0 else d[i - 1])
            self.counts[n] = Counter({gram: len(before) for gram, before in neighbours.items()})

    def probability(self, context: tuple, token: int) -> Fraction:
        context = context[max(0, len(context) - self.order + 1) :]
        lower = self.probability(context[1:], token) if context else Fraction(1, self.vocab_size)
        counts = self.counts[len(context) + 1]
        after = {gram: count for gram, count in counts.items() if gram[:-1] == context}
        if not after:
            return lower
        once, twice = (sum(count == k for count in counts.values()) for k in (1, 2))
        discount = Fraction(once, once + 2 * twice) if once else Fraction(1, 2)
        kept = max(after.get((*context, token), 0) - discount, 0)
        return (kept + discount * len(after) * lower) / sum(after.values())

    def of_each(self, document) -> list[float]:
        document = tuple(document)
        return [float(self.probability(document[:i], token)) for i, token in enumerate(document)]


def of_each(model: KneserNey, document) -> np.ndarray:
    ids = torch.as_tensor(document, dtype=torch.int64)
    return model.probabilities(ids, torch.arange(len(ids))).numpy()


@settings(max_examples=40)
@given(st.integers(1, 6), corpora, letters)
def test_against_exact_fractions(order, train, held_out):
    model, oracle = KneserNey(5, order).fit(train), Plain(order, train, 5)
    for document in (held_out, train[0]):
        np.testing.assert_allclose(of_each(model, document), oracle.of_each(document), rtol=EXACT, atol=0)


def test_counting_by_sorting_is_the_same(seed, monkeypatch):
    train = [random.choices(range(5), k=100) for _ in range(3)]
    model = KneserNey(5, 4).fit(train)
    monkeypatch.setattr(kneser_ney, "COUNTED", 0)
    by_sorting = KneserNey(5, 4).fit(train)
    assert [b.tolist() for b in model.buffers()] == [b.tolist() for b in by_sorting.buffers()]


def test_a_closed_form():
    """Two documents `a b a` and `a a`, a=0 and b=1, bigrams ab, ba, aa of one occurrence each: D_2 = 1, all goes down.

    Left neighbours: a has b and a, b has a. So D_1 = 1 / (1 + 2), P(a) = (2 - 1/3 + 1/3 * 2 * 1/2) / 3 = 2/3.
    """
    model = KneserNey(2, 2).fit([[0, 1, 0], [0, 0]])
    assert [level.discount for level in model.levels] == [1 / 3, 1.0]
    np.testing.assert_allclose(of_each(model, [0, 1, 0, 0]), [2 / 3, 1 / 3, 2 / 3, 2 / 3], rtol=EXACT)


@settings(max_examples=40)
@given(st.integers(1, 5), corpora, letters)
def test_distributions_sum_to_one_and_agree_with_single_probabilities(order, train, document):
    document = [*document, 3]
    model = KneserNey(5, order).fit(train)
    ids = torch.tensor(document)
    depth = torch.arange(len(ids))
    all_tokens = model.distributions(model.contexts(ids, depth), torch.float64)
    np.testing.assert_allclose(all_tokens.sum(-1), 1, rtol=EXACT * 5)
    np.testing.assert_allclose(all_tokens[range(len(ids) - 1), ids[1:]], of_each(model, document)[1:], rtol=EXACT)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_against_nltk(seed, order):
    """NLTK's Kneser-Ney with its one discount for all lengths, which ends in undiscounted single tokens.

    It is given a symbol of its own before each document, which is what our beginnings are; but not the n-grams by which
    that symbol would make a document's first token a predicted one.
    """
    nltk = pytest.importorskip("nltk.lm")
    train = [random.choices("abcdef", weights=[9, 6, 4, 3, 2, 1], k=random.randrange(5, 60)) for _ in range(8)]
    train.append(list("abcdefa"))
    given_to_nltk = []
    for number, document in enumerate(train):
        marked = [f"begin {number}", *document]
        grams = [tuple(marked[i : i + n]) for n in range(1, order + 1) for i in range(len(marked) - n + 1)]
        given_to_nltk.append([gram for gram in grams if gram != tuple(marked[:2])])
    theirs = nltk.KneserNeyInterpolated(order, discount=0.4)
    theirs.fit(given_to_nltk, vocabulary_text=[token for grams in given_to_nltk for gram in grams for token in gram])
    model = KneserNey(6, order, discounts=[0.0] + [0.4] * (order - 1))
    model.fit([["abcdef".index(token) for token in document] for document in train])
    for document in (train[0], random.choices("abcdef", k=40)):
        ours = of_each(model, ["abcdef".index(token) for token in document])
        expected = [theirs.score(token, document[max(0, i - order + 1) : i]) for i, token in enumerate(document)]
        np.testing.assert_allclose(ours, expected, rtol=EXACT)


def test_documents_are_separate(seed):
    """No n-gram across documents: their order does not matter, and the end of one is no context of the next."""
    documents = [random.choices(range(5), k=30) for _ in range(6)]
    model = KneserNey(5, 3).fit(documents)
    again = KneserNey(5, 3).fit(documents[::-1])
    assert all(torch.equal(one, other) for one, other in zip(model.buffers(), again.buffers(), strict=True))
    joined = KneserNey(5, 3).fit([list(chain(*documents))])
    assert len(joined.levels[2].keys) >= len(model.levels[2].keys)
    assert joined.levels[2].cumulative[-1] == model.levels[2].cumulative[-1] + 2 * 5


def test_fitting_twice_is_fitting_once(seed):
    documents = [random.choices(range(5), k=50) for _ in range(3)]
    model = KneserNey(5, 4).fit([[0, 1, 2, 3]]).fit(documents)
    once = KneserNey(5, 4).fit(documents)
    assert all(torch.equal(one, other) for one, other in zip(model.buffers(), once.buffers(), strict=True))


def test_large_vocabulary_and_long_ngrams(seed):
    """Ids near the end of a vocabulary of 250,000, n-grams of 9: the keys stay within 64 bits and apart."""
    train = [[random.randrange(249_990, 250_000) for _ in range(60)] for _ in range(3)]
    held_out = train[0][20:40] + train[1][:10]
    oracle = Plain(9, train, 250_000)
    np.testing.assert_allclose(
        of_each(KneserNey(250_000, 9).fit(train), held_out), oracle.of_each(held_out), rtol=EXACT
    )


def test_logits_of_packed_rows(seed):
    """Log-probabilities of the next token from those of its own document before it, padding and joins included."""
    train = [random.choices(range(8), k=60) for _ in range(4)]
    model = NGramForCausalLM(NGramConfig(vocab_size=8, order=3, eos_token_id=2)).fit(train)
    oracle = Plain(3, train, 8)
    parts = [random.choices(range(8), k=k) for k in (5, 1, 9)]
    ids = torch.tensor([list(chain(*parts))])
    positions = torch.cat([torch.arange(len(part)) for part in parts])[None]
    chosen = model(input_ids=ids, position_ids=positions).logits[0, :-1].gather(-1, ids[0, 1:, None])[:, 0].exp()
    expected = [p for part in parts for p in oracle.of_each(part)]
    inside = positions[0, 1:] > 0
    np.testing.assert_allclose(chosen[inside], np.array(expected)[1:][inside], rtol=LOGITS)
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.int64), ids[:, :5]], dim=1)
    mask = torch.tensor([[0] * 4 + [1] * 5])
    logits = model(input_ids=padded, attention_mask=mask).logits[0, 4:]
    assert torch.equal(logits, model(input_ids=ids[:, :5]).logits[0])


def test_depths():
    ids = torch.zeros(2, 6, dtype=torch.int64)
    positions = torch.tensor([[0, 1, 0, 1, 2, 0], [7, 8, 9, 0, 1, 2]])
    assert depths(ids, None, positions).tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 0, 1, 2]]
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 1, 1, 1]])
    assert depths(ids, mask).tolist()[1][3:] == [0, 1, 2]
    assert depths(ids, mask).tolist()[0] == [0, 1, 2, 3, 4, 5]


def test_bytes(seed):
    train, held_out = (bytes(random.choices(b"abcd", weights=[8, 4, 2, 1], k=3000)) for _ in range(2))
    model = ByteNGram(3).fit(train)
    oracle = Plain(3, [train], 256)
    np.testing.assert_allclose(model.probabilities(held_out[:50]), oracle.of_each(held_out[:50]), rtol=EXACT)
    expected = -sum(np.log2(p) for p in model.probabilities(held_out)) / len(held_out)
    assert model.bits_per_byte(held_out) == pytest.approx(expected, rel=EXACT)
    entropy = sum(-k / 15 * np.log2(k / 15) for k in (8, 4, 2, 1))
    assert entropy - 0.1 < model.bits_per_byte(held_out) < entropy + 0.1  # 3000 draws: a few hundredths of a bit
    assert ByteNGram(5).fit(b"x" * 1000).bits_per_byte(b"x" * 1000) < 0.1
    assert ByteNGram(2).fit(b"abab").bits_per_byte(bytes(range(100, 200))) > 7.9


def test_longer_contexts_help_on_text():
    data = Path(string.__file__).read_bytes()
    train, held_out = data[: len(data) * 3 // 4], data[len(data) * 3 // 4 :]
    scores = [ByteNGram(order).fit(train).bits_per_byte(held_out) for order in (1, 2, 3)]
    assert scores == sorted(scores, reverse=True)


def test_what_is_refused():
    with pytest.raises(ValueError, match="order=0 must be above 0"):
        KneserNey(5, 0)
    with pytest.raises(ValueError, match="no document has two tokens"):
        KneserNey(5, 2).fit([[1], []])
    with pytest.raises(ValueError, match="ids from 1 to 5; vocab_size=5 is too small"):
        KneserNey(5, 2).fit([[1, 5]])
    with pytest.raises(ValueError, match="no counts: call fit"):
        ByteNGram(2).bits_per_byte(b"abc")
    with pytest.raises(ValueError, match="no counts: call fit"):
        NGramForCausalLM(NGramConfig(vocab_size=5))(torch.tensor([[1, 2]]))
    with pytest.raises(ValueError, match=r"discounts has 1 entries for order=3"):
        NGramConfig(order=3, discounts=[0.5])
