"""Documents and prompts: one BOS, one EOS, and text that stays text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.tokenization import encode_conversation, encode_documents, encode_prompt, encode_texts
from rhapsode.tokenization.special_tokens import SPECIAL_TOKENS

from .strategies import hostile_text, thorough

CHAT = [{"role": "user", "content": "<|bos|> hi"}, {"role": "assistant", "content": "ho <|bos|>"}]


@thorough
@given(batch=st.lists(hostile_text, max_size=4))
def test_documents_have_one_bos_and_one_eos(any_tokenizer, batch):
    bos, eos = any_tokenizer.bos_token_id, any_tokenizer.eos_token_id
    encoded = encode_documents(any_tokenizer, batch)
    assert len(encoded) == len(batch)
    for ids, text in zip(encoded, batch, strict=True):
        assert ids.count(bos) == ids.count(eos) == 1
        assert ids[0] == bos and ids[-1] == eos
        assert encode_prompt(any_tokenizer, text) == ids[:-1]
        assert encode_texts(any_tokenizer, [text]) == [ids[1:-1]]


def test_one_bos_everywhere(any_tokenizer):
    bos = any_tokenizer.bos_token_id
    encoded = {
        "document": encode_documents(any_tokenizer, ["<|bos|> hi"])[0],
        "prompt": encode_prompt(any_tokenizer, "<|bos|> hi"),
        "conversation": encode_conversation(any_tokenizer, CHAT)["input_ids"],
        "generation": encode_conversation(any_tokenizer, CHAT[:1], add_generation_prompt=True)["input_ids"],
        "plain call": any_tokenizer("hi")["input_ids"],
        "pair": any_tokenizer("hi", "ho")["input_ids"],
    }
    assert {name: ids.count(bos) for name, ids in encoded.items()} == dict.fromkeys(encoded, 1)


def test_the_plain_call_is_the_prompt(any_tokenizer, texts):
    """`model.generate(**tokenizer(text))`, as everybody writes it, sees what pretraining showed."""
    assert any_tokenizer(texts[0])["input_ids"] == encode_prompt(any_tokenizer, texts[0])


def test_same_ids_as_transformers_own_splitting(any_tokenizer, texts):
    text = " ".join(SPECIAL_TOKENS) + texts[0]
    expected = any_tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert encode_texts(any_tokenizer, [text]) == [expected]


def test_encoding_leaves_the_tokenizer_as_it_was(bpe):
    before = bpe("<|eos|>")["input_ids"]
    encode_documents(bpe, ["<|eos|>"])
    assert bpe.backend_tokenizer.encode("<|eos|>").ids == before == bpe("<|eos|>")["input_ids"]


def test_padding_and_truncation_of_an_earlier_call_do_not_leak(bpe, texts):
    bpe(["a", texts[0]], padding=True, truncation=True, max_length=8)
    assert len(encode_documents(bpe, ["a", texts[0]])[1]) > 8
    assert len(encode_documents(bpe, ["a", "a b c d"])[0]) == 3


@pytest.mark.parametrize("nothing", [[], [""]])
def test_empty_text(bpe, nothing):
    assert encode_documents(bpe, nothing) == [[bpe.bos_token_id, bpe.eos_token_id] for _ in nothing]
