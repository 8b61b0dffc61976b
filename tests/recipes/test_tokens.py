"""Documents as rows of tokens, one after the other: nothing lost, nothing seen across a join.

Oracles: plain loops over the documents, and a model's loss on each document alone.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.modeling import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.data.corpus import Document
from rhapsode.recipes.data.layout import ConcatenatedRows
from rhapsode.recipes.data.mixture import collate
from rhapsode.recipes.data.parallel import BATCH
from rhapsode.recipes.data.tokens import IGNORED, TokenStream, tokenize
from rhapsode.recipes.training.attention import set_attention
from transformers import AutoTokenizer

# The model is float64, but transformers computes the loss of the logits in float32, and sums in another order.
SUM_TOLERANCE = 2e-6

lengths_of_documents = st.lists(st.integers(1, 12), min_size=1, max_size=12)


def stream_of(lengths: list[int]) -> TokenStream:
    """Documents whose token ids are 0, 1, 2, ... throughout, so that each id says where it was."""
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    return TokenStream(np.arange(sum(lengths), dtype=np.uint32), starts, np.asarray(lengths, np.int64))


def in_order(rows: ConcatenatedRows) -> dict[str, torch.Tensor]:
    """Every row, not shuffled, one after the other."""
    taken = [rows.row(i) for i in range(len(rows))]
    return {key: np.concatenate([row[key] for row in taken]) for key in taken[0]}


@given(lengths_of_documents, st.integers(1, 9))
def test_rows_are_the_stream_cut_up(lengths, length):
    stream = stream_of(lengths)
    if sum(lengths) < length:
        with pytest.raises(ValueError, match=f"{sum(lengths)} tokens, fewer than one sequence of max_length={length}"):
            ConcatenatedRows([stream], length)
        return
    rows = ConcatenatedRows([stream], length)
    assert len(rows) == sum(lengths) // length
    assert in_order(rows)["input_ids"].tolist() == list(range(len(rows) * length))


@given(lengths_of_documents, st.integers(1, 9))
def test_positions_and_labels_against_a_loop(lengths, length):
    stream = stream_of([*lengths, length])  # one row at least
    positions, labels = [], []
    for document in stream.documents():
        for offset, token in enumerate(document.tolist()):
            is_row_start = token % length == 0
            positions.append(0 if offset == 0 or is_row_start else positions[-1] + 1)
            labels.append(IGNORED if offset == 0 else token)
    rows = ConcatenatedRows([stream], length)
    got = in_order(rows)
    n = len(rows) * length
    assert got["position_ids"].tolist() == positions[:n]
    assert got["labels"].tolist() == labels[:n]


@given(lengths_of_documents)
def test_documents_come_back(lengths):
    documents = stream_of(lengths).documents()
    assert [len(d) for d in documents] == lengths
    assert np.concatenate(documents).tolist() == list(range(sum(lengths)))


# Text to ids


def test_bytes_are_counted_in_utf8_and_ids_decode_to_the_texts(tokenizer_directory):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    texts = ["plain", "zwölf Boxkämpfer", "日本語", "😀" * 5, "<|eos|> is text here", "tail \ud800 of a pair", " "]
    stream = tokenize([Document(str(i), text) for i, text in enumerate(texts)], tokenizer, "", show_progress=False)
    assert stream.num_bytes.tolist() == [5, 18, 9, 20, 20, 18, 1]
    for text, ids in zip(texts, stream.documents(), strict=True):
        assert ids[0] == tokenizer.bos_token_id
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[1:-1].tolist()) == text.replace("\ud800", "\ufffd")
        assert not set(ids[1:-1].tolist()) & set(tokenizer.all_special_ids)


def test_batches_of_text_do_not_change_the_ids(seed, tokenizer_directory):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    rng = np.random.default_rng(seed)
    words = ["def ", "return ", "x", "\n    ", "self.", "(", ")", "é"]
    texts = ["".join(rng.choice(words, size)) for size in (10, BATCH // 5, 3, 100, BATCH // 5, 20)]
    documents = [Document("", text) for text in texts]
    together = tokenize(documents, tokenizer, "", show_progress=False)
    alone = [tokenize([d], tokenizer, "", show_progress=False) for d in documents]
    assert together.ids.tolist() == np.concatenate([stream.ids for stream in alone]).tolist()
    assert together.starts.tolist() == np.cumsum([0, *(len(stream.ids) for stream in alone)])[:-1].tolist()
    assert together.num_bytes.tolist() == [len(text.encode()) for text in texts]


def test_no_documents(tokenizer_directory):
    stream = tokenize([], AutoTokenizer.from_pretrained(tokenizer_directory), "", show_progress=False)
    assert [len(part) for part in (stream.ids, stream.starts, stream.num_bytes)] == [0, 0, 0]


# What it is for: documents of a row do not see each other


@pytest.mark.parametrize("attention", ["eager", "sdpa", "blocked"])
@pytest.mark.parametrize("preset", ["rhapsode-10m-tiny", "gpt2-tiny"])
def test_the_loss_of_a_packed_row_is_the_sum_over_its_documents(seed, preset, attention):
    overrides = {"residual_dropout": 0.0, "embedding_dropout": 0.0, "attention_dropout": 0.0}
    config = RhapsodeConfig.from_preset(preset, vocab_size=50, initializer_range=0.3, **overrides)
    model = RhapsodeForCausalLM(config).double()
    set_attention(model, attention)
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 20, 8).tolist()
    stream = stream_of(lengths)
    stream.ids = rng.integers(0, 50, sum(lengths), dtype=np.uint32)
    batch = collate([ConcatenatedRows([stream], sum(lengths)).row(0)])
    one = torch.tensor(1)
    for train in (True, False):
        packed = model.train(train)(**batch, use_cache=False, num_items_in_batch=one).loss
        ids = [torch.from_numpy(d.astype(np.int64))[None] for d in stream.documents()]
        alone = sum(model(input_ids=i, labels=i, use_cache=False, num_items_in_batch=one).loss for i in ids)
        torch.testing.assert_close(packed, alone, rtol=SUM_TOLERANCE, atol=0)
        isolated, leaking = (model(**b, use_cache=False).logits for b in (batch, {**batch, "position_ids": None}))
        assert (isolated - leaking).abs().max() > 0.01  # the model is one in which a leak would be seen
