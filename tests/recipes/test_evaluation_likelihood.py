"""Likelihoods of continuations: against one unpadded float64 pass each, for our models and for another family's."""

import numpy as np
import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.evaluation.likelihood import Opened, encode_pair, log_likelihoods
from rhapsode.recipes.options.base import UserError
from rhapsode.tokenization.encoding import encode_prompt
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

LONGEST = 64
# float32 against float64, for sums of some tens of tokens of a tiny model.
TOLERANCE = 1e-4
PAIRS = [
    ("", "def f(x):"),
    ("for i in", " range(10):"),
    ("for i in ", "range(10):"),
    ("import", "lib"),  # together perhaps another token than apart
    ("    return x\n", "\n"),
    ("The quick — ", "brown fox"),
    ("a", " b" * 12),
]


@pytest.fixture
def tokenizer(tokenizer_directory):
    return AutoTokenizer.from_pretrained(tokenizer_directory)


@pytest.fixture(params=["rhapsode", "llama"])
def opened(request, tokenizer, seed):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = RhapsodeConfig if request.param == "rhapsode" else LlamaConfig
    kind = RhapsodeForCausalLM if request.param == "rhapsode" else LlamaForCausalLM
    common = {"vocab_size": len(tokenizer), "max_position_embeddings": LONGEST, "initializer_range": 0.2}
    return Opened(kind(config(**sizes, **common)).eval(), tokenizer, LONGEST, 3)


@torch.no_grad()
def direct(model, ids: list[int], first: int) -> float:
    """One token after the other, each with a pass of its own in float64."""
    model = model.double()
    total = 0.0
    for position in range(first, len(ids)):
        before = ids[max(0, position - LONGEST) : position]
        logits = model(input_ids=torch.tensor([before]), use_cache=False).logits[0, -1]
        total += torch.log_softmax(logits, -1)[ids[position]].item()
    model.float()
    return total


def test_against_one_pass_a_token(opened):
    found = log_likelihoods(opened, PAIRS, show_progress=False)
    for likelihood, (prompt, continuation) in zip(found, PAIRS, strict=True):
        ids, first = encode_pair(opened.tokenizer, prompt, continuation)
        assert likelihood.log_likelihood == pytest.approx(direct(opened.model, ids, first), abs=TOLERANCE)
        assert (likelihood.tokens, likelihood.is_cut) == (len(ids) - first, False)


def test_batches_do_not_matter(opened):
    one = log_likelihoods(opened._replace(batch_size=1), PAIRS, show_progress=False)
    many = log_likelihoods(opened._replace(batch_size=len(PAIRS)), PAIRS, show_progress=False)
    np.testing.assert_allclose([x[0] for x in one], [x[0] for x in many], atol=TOLERANCE)


def test_the_probabilities_of_all_tokens_add_up_to_one(opened):
    """The chain rule's sanity: over every possible next token, one is certain."""
    vocabulary = [t for t in range(len(opened.tokenizer)) if t not in opened.tokenizer.all_special_ids]
    prompt = encode_prompt(opened.tokenizer, "for i")
    with torch.no_grad():
        inside = opened.model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)[vocabulary].sum().item()
    from rhapsode.recipes.training.scoring import score_ends

    documents = [np.array([*prompt, token]) for token in vocabulary]
    nats = score_ends(opened.model, documents, [len(prompt)] * len(documents), LONGEST, 64)
    assert sum(np.exp(-values).item() for values in nats) == pytest.approx(inside, abs=1e-4)


def test_prompt_and_continuation_are_encoded_together(tokenizer):
    bos = tokenizer.bos_token_id
    for prompt, continuation in PAIRS:
        ids, first = encode_pair(tokenizer, prompt, continuation)
        assert ids == encode_prompt(tokenizer, prompt + continuation)
        assert ids[0] == bos and ids.count(bos) == 1 and 0 < first < len(ids)
    # A space at the end of a prompt is the continuation's: both ways of writing it are the same question.
    assert encode_pair(tokenizer, "for i in ", "range") == encode_pair(tokenizer, "for i in", " range")
    ids, first = encode_pair(tokenizer, "for i in", " range")
    assert tokenizer.decode(ids[first:]) == " range"


def test_a_tokenizer_without_bos_begins_with_eos(tokenizer):
    tokenizer.bos_token = None
    ids, first = encode_pair(tokenizer, "", "x = 1")
    assert (ids[0], first) == (tokenizer.eos_token_id, 1)
    ids, first = encode_pair(tokenizer, "x =", " 1")
    assert tokenizer.eos_token_id not in ids and first >= 1
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="needs a tokenizer with a BOS or an EOS"):
        encode_pair(tokenizer, "", "x = 1")


def test_a_long_prompt_loses_its_beginning(opened):
    """As many tokens are read as the model has positions: the last one of a pair is only predicted."""
    prompt = "x y z " * 200
    (likelihood,) = log_likelihoods(opened, [(prompt, " w")], show_progress=False)
    ids, first = encode_pair(opened.tokenizer, prompt, " w")
    begin = len(ids) - 1 - LONGEST
    with torch.no_grad():
        logits = opened.model(input_ids=torch.tensor([ids[begin:-1]])).logits[0].double().log_softmax(-1)
    assert likelihood.is_cut and logits.shape[0] == LONGEST
    expected = sum(logits[i - begin - 1, ids[i]].item() for i in range(first, len(ids)))
    assert likelihood.log_likelihood == pytest.approx(expected, abs=TOLERANCE)
    with pytest.raises(UserError, match="the model reads 64 at once"):
        log_likelihoods(opened, [("a", prompt)], show_progress=False)
