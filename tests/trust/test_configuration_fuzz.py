"""Configurations at random, legal and not: each is refused by name, or is a network that computes, saves and loads."""

import tempfile

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.modeling.validation import CHOICES
from transformers import AutoModelForCausalLM

LAYERS = (1, 2)
NUMBERS = st.sampled_from([0.5, 1, 2.0, 0.125])
WILD = st.sampled_from([0, -1, 0.0, -0.5, 1e-3, float("nan"), float("inf"), -float("inf"), None, "8", True, [2], {}])
SWITCH = st.booleans()
SIZES = st.sampled_from([8, 16, 24, 32])


def rotary() -> st.SearchStrategy:
    """Parameters of a known kind, of which some may be missing or wrong."""
    values = {
        "rope_theta": st.sampled_from([1e4, 100, 1.0]),
        "factor": st.sampled_from([1.0, 2, 8.0]),
        "partial_rotary_factor": st.sampled_from([1.0, 0.5, 0.25, 0.3]),
        "original_max_position_embeddings": st.sampled_from([16, 32, 8]),
        "low_freq_factor": st.sampled_from([1.0, 4.0]),
        "high_freq_factor": st.sampled_from([4.0, 8.0]),
        "attention_factor": st.sampled_from([1.0, 0.7]),
        "beta_fast": st.sampled_from([32, 8.0]),
        "beta_slow": st.sampled_from([1, 2.0]),
        "short_factor": st.lists(NUMBERS, min_size=1, max_size=4),
        "long_factor": st.lists(NUMBERS, min_size=1, max_size=4),
    }
    kinds = st.sampled_from(["default", "linear", "dynamic", "yarn", "llama3", "longrope", "yarm"])
    values = {name: st.one_of(value, value, value, value, value, WILD) for name, value in values.items()}
    return st.fixed_dictionaries({"rope_type": kinds}, optional=values)


LEGAL = {
    "vocab_size": st.sampled_from([3, 17, 64]),
    "hidden_size": SIZES,
    "intermediate_size": st.one_of(st.none(), SIZES),
    "num_hidden_layers": st.sampled_from(LAYERS),
    "num_attention_heads": st.sampled_from([1, 2, 4]),
    "num_key_value_heads": st.one_of(st.none(), st.sampled_from([1, 2, 4])),
    "head_dim": st.one_of(st.none(), st.sampled_from([2, 4, 6, 8])),
    "max_position_embeddings": st.sampled_from([16, 32]),
    "norm_type": st.sampled_from(CHOICES["norm_type"]),
    "norm_affine": SWITCH,
    "norm_bias": SWITCH,
    "norm_eps": st.sampled_from([1e-6, 1e-5, 1]),
    "norm_order": st.sampled_from(CHOICES["norm_order"]),
    "embedding_norm": SWITCH,
    "parallel_block": SWITCH,
    "parallel_shared_norm": SWITCH,
    "residual_multiplier": NUMBERS,
    "attention_bias": SWITCH,
    "attention_out_bias": st.one_of(st.none(), SWITCH),
    "attention_multiplier": st.one_of(st.none(), NUMBERS),
    "qk_norm": st.sampled_from(CHOICES["qk_norm"]),
    "clip_qkv": st.one_of(st.none(), NUMBERS),
    "sliding_window": st.one_of(st.none(), st.sampled_from([1, 3, 100])),
    "layer_types": st.one_of(
        st.none(), st.lists(st.sampled_from(["full_attention", "sliding_attention"]), min_size=1, max_size=2)
    ),
    "position_embedding_type": st.sampled_from(CHOICES["position_embedding_type"]),
    "rope_parameters": st.one_of(st.none(), rotary()),
    "rope_interleaved": SWITCH,
    "no_rope_layers": st.one_of(st.none(), st.lists(st.sampled_from([0, 1]), min_size=1, max_size=2)),
    "mlp_gated": SWITCH,
    "hidden_act": st.sampled_from(sorted(CHOICES["hidden_act"])),
    "mlp_bias": SWITCH,
    "tie_word_embeddings": SWITCH,
    "embedding_multiplier": NUMBERS,
    "lm_head_bias": SWITCH,
    "logit_scale": NUMBERS,
    "final_logit_softcapping": st.one_of(st.none(), NUMBERS),
    "attention_dropout": st.sampled_from([0.0, 0, 0.5]),
    "residual_dropout": st.sampled_from([0.0, 0, 0.5]),
    "embedding_dropout": st.sampled_from([0.0, 0, 0.5]),
    "initializer_range": st.sampled_from([0.02, 0, 1]),
    "use_cache": SWITCH,
    "pad_token_id": st.one_of(st.none(), st.sampled_from([0, 2])),
    "bos_token_id": st.one_of(st.none(), st.just(1)),
    "eos_token_id": st.one_of(st.none(), st.just(2), st.just([1, 2])),
}
SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
SMALL |= {"max_position_embeddings": 16}
QUICK = settings(max_examples=40, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=1500, suppress_health_check=list(HealthCheck))


@st.composite
def fields(draw, wild: int):
    """Some fields, of which up to `wild` have a value from anywhere."""
    chosen = draw(st.lists(st.sampled_from(sorted(LEGAL)), unique=True, max_size=16))
    found = SMALL | {name: draw(LEGAL[name]) for name in chosen}
    for name in draw(st.lists(st.sampled_from(sorted(LEGAL)), max_size=wild, unique=True)):
        found[name] = draw(WILD)
    return found


def refused_or_working(given_fields: dict) -> None:
    """
    Raises:
        AssertionError: neither is the case, or the message names no field.
    """
    try:
        config = RhapsodeConfig(**given_fields)
    except (ValueError, StrictDataclassError) as refusal:
        named = [name for name in (*LEGAL, "rope_type", "factor", "rope_theta") if name in str(refusal)]
        assert named, f"{refusal!r} names no field"
        return
    torch.manual_seed(0)
    model = RhapsodeForCausalLM(config)
    ids = torch.arange(12).view(2, 6) % config.vocab_size
    out = model(ids, labels=ids)
    assert out.logits.isfinite().all()
    out.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        again, found = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(found.values()), found
    assert again.config.to_dict() | {"_name_or_path": ""} == config.to_dict() | {"_name_or_path": ""}
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, again.eval()(ids).logits)


@QUICK
@given(fields(wild=0))
def test_fields_that_are_legal_each_by_itself(given_fields):
    refused_or_working(given_fields)


@QUICK
@given(fields(wild=2))
def test_fields_of_any_value(given_fields):
    refused_or_working(given_fields)


@pytest.mark.slow
@LONG
@given(fields(wild=0))
def test_many_fields_that_are_legal_each_by_itself(given_fields):
    refused_or_working(given_fields)


@pytest.mark.slow
@LONG
@given(fields(wild=3))
def test_many_fields_of_any_value(given_fields):
    refused_or_working(given_fields)


def test_the_strategies_know_every_field():
    own = {name for name, kind in RhapsodeConfig.__annotations__.items() if "ClassVar" not in str(kind)}
    assert set(LEGAL) == own - {"model_type"}
