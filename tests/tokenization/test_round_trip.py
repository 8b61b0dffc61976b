"""Ids back to text: exact for the three algorithms that work on bytes, exact up to unknown words for the other two."""

import re
import sys

import pytest
from hypothesis import given
from rhapsode.tokenization.encoding import encode_texts
from rhapsode.tokenization.special_tokens import BREAKER
from rhapsode.tokenization.splitting import split_words

from .conftest import trained
from .strategies import hostile_text, thorough

SAMPLED_CODE_POINTS = 20_000  # of 1.1 million
LONG = 200_000  # characters; anything quadratic would take minutes


@thorough
@given(text=hostile_text)
def test_any_text_comes_back(lossless_tokenizer, text):
    (ids,) = encode_texts(lossless_tokenizer, [text])
    assert lossless_tokenizer.decode(ids) == text
    assert lossless_tokenizer.decode(ids, skip_special_tokens=True) == text
    assert not set(ids) & set(lossless_tokenizer.all_special_ids)


@pytest.mark.parametrize("algorithm", ["word", "char"])
@thorough
@given(text=hostile_text.map(lambda text: text.replace(BREAKER, "")))
def test_word_and_char_lose_only_what_they_do_not_know(algorithm, text):
    tokenizer = trained(algorithm)
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    spans = [text[begin:end] for begin, end in encoded["offset_mapping"]]
    assert "".join(spans) == text
    vocabulary = tokenizer.get_vocab()
    assert encoded["input_ids"] == [vocabulary.get(span, tokenizer.unk_token_id) for span in spans]
    assert tokenizer.decode(encoded["input_ids"]) == "".join(s if s in vocabulary else "<|unk|>" for s in spans)


def test_every_kind_of_code_point_comes_back(lossless_tokenizer, rng):
    legal = [i for i in range(sys.maxunicode + 1) if not 0xD800 <= i < 0xE000]
    text = "".join(map(chr, rng.sample(legal, SAMPLED_CODE_POINTS)))
    (ids,) = encode_texts(lossless_tokenizer, [text])
    assert lossless_tokenizer.decode(ids) == text


def test_half_a_surrogate_pair_becomes_a_replacement_character(bpe):
    ids = encode_texts(bpe, ["a\ud800b", "\ud83d\ude00"])
    assert [bpe.decode(i) for i in ids] == ["a\ufffdb", "\U0001f600"]


def test_no_token_has_more_than_three_digits(any_tokenizer):
    assert not [token for token in any_tokenizer.get_vocab() if re.search(r"\d{4}", token)]


def test_indentation_is_compact(bpe):
    source = "class A:\n    def f(self):\n        if self:\n            return None\n        return self\n"
    pieces = [source[begin:end] for _, (begin, end) in split_words().pre_tokenize_str(source)]
    assert "".join(pieces) == source
    assert [p for p in pieces if "\n" in p] == [":\n    ", "):\n        ", ":\n            ", "\n        ", "\n"]
    (ids,) = encode_texts(bpe, ["\n        "])
    assert len(ids) == 1


def test_a_long_run_of_one_character(lossless_tokenizer, rng):
    text = rng.choice(["a", " ", "=", "<", "\n", "7"]) * LONG
    (ids,) = encode_texts(lossless_tokenizer, [text])
    assert lossless_tokenizer.decode(ids) == text
