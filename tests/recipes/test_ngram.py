"""The n-gram baseline against a plain implementation with dictionaries, and against NLTK's."""

import random
import string
from collections import Counter, defaultdict
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode.recipes.baselines.ngram import MAX_ORDER, ByteNGram

EXACT = 1e-12  # a handful of float64 operations on numbers of at most one
texts = (
    st.binary(max_size=80) | st.text("ab", max_size=80).map(str.encode) | st.text("abcd ", max_size=80).map(str.encode)
)


class Plain:
    """Interpolated Kneser-Ney in exact fractions, read off the definition."""

    def __init__(self, order: int, data: bytes):
        self.order = order
        top = Counter(data[i : i + order] for i in range(len(data) - order + 1))
        self.counts = {order: top}
        for n in range(order - 1, 0, -1):
            left = defaultdict(set)
            for gram in self.counts[n + 1]:
                left[gram[1:]].add(gram[0])
            self.counts[n] = Counter({gram: len(before) for gram, before in left.items()})

    def probability(self, context: bytes, byte: int) -> Fraction:
        context = context[max(0, len(context) - self.order + 1) :]
        lower = self.probability(context[1:], byte) if context else Fraction(1, 256)
        counts = self.counts[len(context) + 1]
        after = {gram: count for gram, count in counts.items() if gram[:-1] == context}
        if not after:
            return lower
        once, twice = (sum(count == k for count in counts.values()) for k in (1, 2))
        discount = Fraction(once, once + 2 * twice) if once else Fraction(1, 2)
        kept = max(after.get(context + bytes([byte]), 0) - discount, 0)
        return (kept + discount * len(after) * lower) / sum(after.values())


@settings(deadline=None)  # exact fractions
@given(st.integers(1, 5), texts, st.data())
def test_against_exact_fractions(order, train, data):
    train = bytes(order) + train
    held_out = data.draw(texts | st.just(train))
    oracle = Plain(order, train)
    expected = [float(oracle.probability(held_out[:i], byte)) for i, byte in enumerate(held_out)]
    got = ByteNGram(order).fit(train).probabilities(held_out)
    np.testing.assert_allclose(got, expected, rtol=EXACT, atol=0)


@pytest.mark.parametrize("order", range(1, MAX_ORDER + 1))
def test_the_probabilities_of_all_bytes_sum_to_one(seed, order):
    train = bytes(random.choices(b"abcde\x00\xff", k=400))
    model = ByteNGram(order).fit(train)
    for context in (b"", b"a", b"zz", train[:3], train[50:58], bytes(random.choices(b"abc", k=9)), b"\xff" * 8):
        total = sum(model.probabilities(context + bytes([byte]))[-1] for byte in range(256))
        assert total == pytest.approx(1, abs=EXACT * 256)


def test_seven_bytes_fit_without_overflow(seed):
    """The longest n-grams, of the largest bytes: what lies beyond the 64 bits of an integer would be lost."""
    train = bytes(random.choices(range(240, 256), k=500))
    held_out = train[100:160] + bytes(random.choices(range(256), k=30))
    oracle = Plain(MAX_ORDER, train)
    expected = [float(oracle.probability(held_out[:i], byte)) for i, byte in enumerate(held_out)]
    np.testing.assert_allclose(ByteNGram(MAX_ORDER).fit(train).probabilities(held_out), expected, rtol=EXACT, atol=0)


def test_the_first_bytes_see_no_padding(seed):
    """The bytes before the beginning do not exist; zeros in their place would be a context that the data knows."""
    train = b"\x00\x00\x00\x00a" * 20 + b"b" * 50
    model = ByteNGram(5).fit(train)
    shorter = [ByteNGram(n).fit(train) for n in range(1, 6)]
    assert model.probabilities(b"a")[0] == pytest.approx(float(Plain(5, train).probability(b"", ord("a"))), rel=EXACT)
    assert model.probabilities(b"a")[0] < 0.5 < model.probabilities(b"\x00\x00\x00\x00a")[4]
    assert len(shorter[0].probabilities(b"")) == 0


def test_bits_per_byte(seed):
    train, held_out = (bytes(random.choices(b"abcd", weights=[8, 4, 2, 1], k=3000)) for _ in range(2))
    model = ByteNGram(3).fit(train)
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


def test_against_nltk(seed):
    """NLTK's Kneser-Ney, with our discount and without the uniform distribution below it, on bytes that it has seen.

    It discounts every order alike and ends in the undiscounted continuation counts, so orders above 2 are not compared.
    """
    nltk = pytest.importorskip("nltk.lm")
    train = random.choices("abcd", k=300)
    ours = ByteNGram(2).fit("".join(train).encode())
    lower, upper = ours.levels
    theirs = nltk.KneserNeyInterpolated(2, discount=float(upper.discount))
    theirs.fit([list(pairwise(train)), [(c,) for c in train]], vocabulary_text=train)
    lower.discount = 0.0
    for context in "abcd":
        for byte in "abcd":
            got = ours.probabilities(f"{context}{byte}".encode())[1]
            assert got == pytest.approx(theirs.score(byte, [context]), rel=EXACT)


def test_what_is_refused():
    for order in (0, -1, MAX_ORDER + 1):
        with pytest.raises(ValueError, match=f"order={order} is not between 1 and {MAX_ORDER}"):
            ByteNGram(order)
    with pytest.raises(ValueError, match="4 bytes are too few for order=5"):
        ByteNGram(5).fit(b"abcd")
