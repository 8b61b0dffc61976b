"""Held-out loss: every token counted once, whatever the window, the batch and the padding.

Oracles: a direct log-softmax of one document at a time, and for windows a plain count.
"""

import math
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.modeling import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.data.tokens import TokenStream
from rhapsode.recipes.training.scoring import Score, score_documents, windows

VOCABULARY, LONGEST = 60, 256
# float32 logits of a tiny model: kernels for other batch shapes add up in another order.
SCORE_TOLERANCE = 2e-5
# bfloat16 has 8 bits: single losses are off by up to a percent or so, their sum by much less.
BF16_TOLERANCE = 2e-2


@pytest.fixture(params=["rhapsode-10m-tiny", "gpt2-tiny"])
def model(request, seed):
    """Weights far from zero, so that what a token sees matters."""
    config = RhapsodeConfig.from_preset(request.param, vocab_size=VOCABULARY, initializer_range=0.2)
    return RhapsodeForCausalLM(config).eval()


def stream_of(seed: int, lengths: list[int]) -> TokenStream:
    rng = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    ids = rng.integers(0, VOCABULARY, sum(lengths), dtype=np.uint32)
    return TokenStream(ids, starts, rng.integers(1, 1000, len(lengths)))


@torch.no_grad()
def direct(model, ids: np.ndarray, length: int, stride: int) -> float:
    """Nats of one document: each target from the window that ends at a multiple of the stride, one pass for each."""
    ids, total = torch.from_numpy(ids.astype(np.int64)), 0.0
    for target in range(1, len(ids)):
        moves = max(0, math.ceil((target + 1 - length) / stride))  # of the first window that holds the target
        end = min(length + moves * stride, len(ids))
        begin = max(0, end - length)
        logits = model(input_ids=ids[begin:target][None], use_cache=False).logits[0, -1]
        total -= torch.log_softmax(logits.double(), -1)[ids[target]].item()
    return total


# Windows


@given(st.integers(0, 200), st.integers(2, 40), st.data())
def test_windows_count_every_target_once_with_enough_context(tokens, length, data):
    stride = data.draw(st.integers(1, length - 1))
    counted = Counter()
    for begin, end, target in windows(tokens, length, stride):
        assert 0 <= begin < target < end <= tokens
        assert end - begin <= length
        assert target - begin >= min(target, length - stride)
        counted.update(range(target, end))
    assert counted == Counter(range(1, tokens))


@given(st.integers(2, 40), st.integers(2, 40))
def test_a_document_that_fits_is_one_window(tokens, length):
    if tokens <= length:
        assert list(windows(tokens, length, 1)) == [(0, tokens, 1)]


@pytest.mark.parametrize(("length", "stride"), [(8, 8), (8, 9), (8, 0), (1, 1)])
def test_a_stride_without_context_is_refused(length, stride):
    with pytest.raises(ValueError, match=f"stride={stride} in a window of length={length}"):
        list(windows(100, length, stride))


# Scores


@pytest.mark.parametrize(("length", "stride"), [(LONGEST, 128), (8, 4), (8, 1), (5, 3)])
def test_against_one_log_softmax_a_token(model, seed, length, stride):
    stream = stream_of(seed, [30, 2, 1, 17, 5, 8])
    score = score_documents(model, stream, length, stride, batch_size=4)
    expected = [direct(model, ids, length, stride) for ids in stream.documents()]
    np.testing.assert_allclose(score.nats, expected, rtol=SCORE_TOLERANCE, atol=0)
    assert score.targets.tolist() == [29, 1, 0, 16, 4, 7]
    assert score.loss == pytest.approx(sum(expected) / 57, rel=SCORE_TOLERANCE)
    assert score.perplexity == pytest.approx(math.exp(sum(expected) / 57), rel=100 * SCORE_TOLERANCE)
    others = stream.num_bytes.sum() - stream.num_bytes[2]  # nothing of the document of one token is predicted
    assert score.bits_per_byte == pytest.approx(sum(expected) / math.log(2) / others, rel=SCORE_TOLERANCE)


def test_batches_and_padding_do_not_matter(model, seed):
    stream = stream_of(seed, np.random.default_rng(seed).integers(2, 70, 25).tolist())
    alone = score_documents(model, stream, 32, 16, batch_size=1)
    for batch_size in (2, 7, 100):
        score = score_documents(model, stream, 32, 16, batch_size=batch_size)
        np.testing.assert_allclose(score.nats, alone.nats, rtol=SCORE_TOLERANCE, atol=0)
        assert score.targets.tolist() == alone.targets.tolist()
        assert score.num_bytes.tolist() == alone.num_bytes.tolist()


def test_more_context_is_used(model, seed):
    """A model that sees more tokens gives other probabilities: the window is not shorter than it says."""
    stream = stream_of(seed, [60] * 8)  # in the sum over one document, differences may cancel
    long, short = (score_documents(model, stream, length, 1, batch_size=64).nats for length in (60, 4))
    assert (abs(long - short) / long).max() > 100 * SCORE_TOLERANCE


def test_the_uniform_model_has_the_closed_form(seed):
    model = RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny", vocab_size=VOCABULARY))
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    score = score_documents(model, stream_of(seed, [10, 300, 4]), LONGEST, 128)
    assert score.loss == pytest.approx(math.log(VOCABULARY), rel=SCORE_TOLERANCE)
    assert score.perplexity == pytest.approx(VOCABULARY, rel=SCORE_TOLERANCE * 10)
    bits = math.log2(VOCABULARY) * (9 + 299 + 3)
    assert score.bits_per_byte == pytest.approx(bits / score.num_bytes.sum(), rel=SCORE_TOLERANCE)


def test_max_tokens_spreads_over_the_documents_and_counts_bytes_in_proportion(seed):
    model = RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny", vocab_size=VOCABULARY))
    lengths = [101] * 40
    stream = stream_of(seed, lengths)
    stream.num_bytes = np.full(40, 500)
    whole = score_documents(model, stream, 20, 10)
    some = score_documents(model, stream, 20, 10, max_tokens=400)
    assert 400 <= some.targets.sum() < 420  # by whole windows
    assert (some.targets > 0).sum() > 15  # not the first few documents
    assert some.targets.sum() / (some.targets > 0).sum() < 40
    assert score_documents(model, stream, 20, 10, max_tokens=400).nats.tolist() == some.nats.tolist()
    assert some.num_bytes.tolist() == pytest.approx((some.targets * 5).tolist())  # 500 bytes, 100 targets
    assert some.bits_per_byte == pytest.approx(whole.bits_per_byte, rel=0.1)  # a sample of a nearly uniform model
    everything = score_documents(model, stream, 20, 10, max_tokens=10**6)
    assert everything.targets.tolist() == whole.targets.tolist()


def test_the_mode_of_the_model_is_put_back_and_dropout_is_off(seed):
    config = RhapsodeConfig.from_preset("gpt2-tiny", vocab_size=VOCABULARY)
    assert config.residual_dropout > 0
    model, stream = RhapsodeForCausalLM(config), stream_of(seed, [40])
    scores = []
    for mode in (True, False):
        model.train(mode)
        scores.append(score_documents(model, stream, 20, 10).nats[0])
        assert model.training == mode
    assert scores[0] == scores[1]
    assert all(p.grad is None for p in model.parameters())


def test_autocast(model, seed):
    stream = stream_of(seed, [60, 30])
    autocast = partial(torch.autocast, "cpu", torch.bfloat16)
    low, full = score_documents(model, stream, 32, 16, autocast=autocast), score_documents(model, stream, 32, 16)
    assert low.nats.tolist() != full.nats.tolist()
    np.testing.assert_allclose(low.nats, full.nats, rtol=BF16_TOLERANCE)


def test_a_hopeless_model_has_a_finite_perplexity():
    score = Score(np.array([1e6]), np.array([10.0]), np.array([10.0]))
    assert math.isfinite(score.perplexity)
    assert score.loss == 1e5
