"""What is accepted is exact: settings are changed one at a time, and are refused or give the same logits.

A family's baseline is its tiny default; `OURS` are changes of our configuration, written in the family's format, and
`THEIRS` of each boolean or number in the family's own configuration, loaded from it.
"""

import dataclasses

import pytest
import torch
from rhapsode.hub import load_foreign, save_foreign
from rhapsode.hub.families import FAMILIES
from rhapsode.hub.family import PLAIN, SIZES, to_rhapsode
from rhapsode.modeling import RhapsodeConfig, RhapsodeForCausalLM
from transformers import AutoModelForCausalLM
from transformers.configuration_utils import PreTrainedConfig

LENGTH = 100
LOGITS_TOLERANCE = 1e-5  # activations reach 100 under some of these settings, and rounding grows with them
NEEDED = {
    **{name: {"head_dim": 16} for name, row in FAMILIES.items() if row.head_dim == "field" or name == "helium"},
    "gemma2": {"attn_logit_softcapping": None, "head_dim": 16},
    "vaultgemma": {"attn_logit_softcapping": None, "head_dim": 16},
    "gpt_neo": {"attention_types": [[["local", "global"], 1]], "window_size": 9},
    "gptj": {"rotary_dim": 8},
    "codegen": {"rotary_dim": 8},
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
OURS = {
    "norm_type": ["rms_norm", "layer_norm"],
    "norm_affine": [False],
    "norm_bias": [True, False],
    "norm_eps": [1e-3],
    "norm_order": ["pre", "output", "sandwich", "post"],
    "embedding_norm": [True],
    "parallel_block": [True, False],
    "parallel_shared_norm": [True, False],
    "residual_multiplier": [0.5],
    "attention_bias": [True, False],
    "attention_out_bias": [True, False],
    "attention_multiplier": [0.1, 1.0],
    "qk_norm": ["none", "head", "per_head", "full"],
    "clip_qkv": [0.5],
    "sliding_window": [7],
    "layer_types": [["sliding_attention", "full_attention"], ["full_attention", "full_attention"]],
    "position_embedding_type": ["rope", "learned", "sinusoidal", "none"],
    "rope_interleaved": [True, False],
    "no_rope_layers": [[1, 0], [0, 1], [0, 0]],
    "rope_parameters": [
        ROPE | {"rope_theta": 500.0},
        ROPE | {"partial_rotary_factor": 0.5},
        ROPE | {"rope_type": "linear", "factor": 4.0},
        ROPE | {"rope_type": "linear", "factor": 4.0, "partial_rotary_factor": 0.5},
        ROPE | {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    ],
    "mlp_gated": [True, False],
    "mlp_bias": [True, False],
    "embedding_multiplier": [3.0],
    "lm_head_bias": [True, False],
    "logit_scale": [0.3],
    "final_logit_softcapping": [2.0],
    "head_dim": [8, 32],
    "num_key_value_heads": [1, 2, 4],
    "intermediate_size": [80],
    "hidden_act": ["relu", "gelu", "gelu_new", "silu"],
    "tie_word_embeddings": [True, False],
}
# What to set a field of theirs to, by the type of its value; strings, lists and dictionaries are in `OURS`.
THEIRS = {bool: lambda value: not value, int: lambda value: value // 2, float: lambda value: value * 1.5 + 0.25}


def baseline(family, tools):
    return tools.config(family, **NEEDED.get(family, {}))


def agree(ours, theirs, tools) -> bool:
    ids = torch.randint(6, ours.config.vocab_size, (1, LENGTH))
    with torch.no_grad():
        a, b = ours.eval()(ids).logits, theirs.eval()(ids).logits
    return tools.relative_difference(a, b) < LOGITS_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_our_settings(family, seed, tools, tmp_path):
    like = to_rhapsode(FAMILIES[family], baseline(family, tools))
    fields = {name: getattr(like, name, None) for name in (*SIZES, *PLAIN)}
    accepted = []
    for name, values in OURS.items():
        for value in values:
            change = {name: value} | ({"attention_out_bias": None} if name == "attention_bias" else {})
            try:
                config = RhapsodeConfig(**fields | change)
                ours = RhapsodeForCausalLM._from_config(config, attn_implementation="eager")
                save_foreign(tools.randomise(ours), tmp_path, family)
            except ValueError as error:
                assert "\n" not in str(error)
                continue
            theirs, info = AutoModelForCausalLM.from_pretrained(
                tmp_path, attn_implementation="eager", output_loading_info=True
            )
            assert not info["missing_keys"] and not info["unexpected_keys"], (name, value)
            assert agree(ours, theirs, tools), (name, value)
            accepted.append((name, value))
    print(f"{family} accepts {accepted}")
    assert len(accepted) > 10


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_their_settings(family, seed, tools, tmp_path):
    config = baseline(family, tools)
    accepted = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in PreTrainedConfig.__dataclass_fields__ or type(value) not in THEIRS:
            continue
        changed = THEIRS[type(value)](value)
        try:  # many of their settings exclude one another: then there is nothing to compare
            settings = NEEDED.get(family, {}) | {field.name: changed}
            theirs = tools.random_model(family, **settings)
            theirs(torch.randint(6, 50, (1, LENGTH)))
            theirs.save_pretrained(tmp_path)
        except Exception:
            continue
        try:
            ours = load_foreign(tmp_path, attn_implementation="eager")
        except ValueError as error:
            assert "\n" not in str(error)
            print(f"{family} refuses {field.name}={changed}: {error}")
            continue
        assert agree(ours, theirs, tools), (field.name, changed)
        accepted.append(field.name)
    print(f"{family} accepts {accepted}")
    assert len(accepted) > 4
