"""The loop of `rhapsode generate --torch_compile` writes what transformers' own loop writes, token by token."""

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.generation import compiled
from rhapsode.recipes.options.base import UserError
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

EOS, PAD = 7, 0
SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
DESIGNS = {
    "grouped": {},
    "multi-query": {"num_key_value_heads": 1},
    "window": {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    "learned": {"position_embedding_type": "learned"},
    "dynamic": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
    "biased": {"attention_bias": True, "mlp_bias": True, "mlp_gated": False, "norm_type": "layer_norm"},
}
SETTINGS = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "temperature": 0.9, "top_k": 20, "top_p": 0.95},
    "penalised": {"do_sample": False, "repetition_penalty": 1.7},
}


def build(design: str = "grouped", **sizes):
    config = {"num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3} | DESIGNS[design]
    return RhapsodeForCausalLM(RhapsodeConfig(**(SIZES | config | sizes), eos_token_id=EOS, pad_token_id=PAD)).eval()


def both(model, ids, **settings) -> list[list]:
    """What transformers' loop writes, and what ours does."""
    texts = []
    for loop in ({}, {"custom_generate": compiled.decode}):
        set_seed(11)
        texts.append(model.generate(ids, **settings, **loop, eos_token_id=EOS, pad_token_id=PAD).tolist())
    return texts


@pytest.fixture
def uncompiled(monkeypatch):
    """The same step without the compiler, which takes many seconds for each design."""
    monkeypatch.setattr(compiled, "_compiled_step", lambda: compiled._step)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("design", DESIGNS)
def test_one_text(uncompiled, seed, design, settings):
    theirs, ours = both(build(design), torch.randint(8, 60, (1, 9)), max_new_tokens=30, **SETTINGS[settings])
    assert ours == theirs


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("design", DESIGNS)
def test_padded_texts_that_end_at_different_tokens(uncompiled, seed, design, settings):
    model, ids = build(design), torch.randint(8, 60, (6, 9))
    with torch.no_grad():
        model.get_output_embeddings().weight[EOS] *= 1.5  # ends come soon
    mask = torch.ones_like(ids)
    for row, n in enumerate((0, 3, 8, 0, 1, 5)):
        ids[row, :n], mask[row, :n] = PAD, 0
    theirs, ours = both(model, ids, attention_mask=mask, max_new_tokens=25, **SETTINGS[settings])
    assert ours == theirs


def test_another_family(uncompiled, seed):
    config = LlamaConfig(**SIZES, intermediate_size=64, num_key_value_heads=2, initializer_range=0.3)
    theirs, ours = both(LlamaForCausalLM(config).eval(), torch.randint(8, 60, (1, 5)), max_new_tokens=20)
    assert ours == theirs


def test_the_model_is_as_before_afterwards(uncompiled, seed):
    model = build()
    kernel = model.config._attn_implementation
    both(model, torch.randint(8, 60, (1, 3)), max_new_tokens=3)
    assert {type(m) for m in model.modules()} & {compiled.SingleRowLinear} == set()
    assert model.config._attn_implementation == kernel


@pytest.mark.parametrize("bias", [True, False])
def test_a_single_row(seed, bias):
    plain = nn.Linear(50, 30, bias=bias).double()
    x = torch.randn(1, 1, 50, dtype=torch.float64)
    expected = plain(x)
    plain.__class__ = compiled.SingleRowLinear
    torch.testing.assert_close(plain(x), expected, rtol=1e-6, atol=1e-6)  # its sums are float32
    several = torch.randn(3, 4, 50, dtype=torch.float64)
    assert torch.equal(plain(several), nn.functional.linear(several, plain.weight, plain.bias))


def test_compiled(seed):
    """The real thing, with guards left out after the first step, for two texts of different lengths."""
    model = build(num_hidden_layers=1)
    for length in (4, 9):
        theirs, ours = both(model, torch.randint(8, 60, (1, length)), max_new_tokens=20, do_sample=False)
        assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("design", [name for name in DESIGNS if name != "dynamic"])
def test_compiled_designs(seed, design, dtype):
    torch._dynamo.reset()
    model, ids = build(design).to(dtype), torch.randint(8, 60, (3, 9))
    mask = torch.ones_like(ids)
    mask[1, :4], ids[1, :4] = 0, PAD
    for prompts, masks in ((ids[:1], mask[:1]), (ids, mask)):
        theirs, ours = both(model, prompts, attention_mask=masks, max_new_tokens=20, do_sample=False)
        if dtype == torch.float32:
            assert ours == theirs
        else:  # roundings may part two continuations; the first token has but one step behind it
            assert [row[: prompts.shape[1] + 1] for row in ours] == [row[: prompts.shape[1] + 1] for row in theirs]


def test_what_every_length_changes_is_refused():
    assert "custom_generate" in compiled.compiled_decoding(build())
    with pytest.raises(UserError, match="rope_type=dynamic"):
        compiled.compiled_decoding(build("dynamic"))
