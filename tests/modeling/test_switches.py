"""Every switch of the configuration, alone: its gradient is the derivative, by central differences in float64.

Along a random direction through all parameters of a small model with every parameter random. Nothing is left out: a
field that is neither in `SWITCHES` nor in `NO_ARITHMETIC` fails a test.
"""

from functools import partial

import pytest
import torch
from rhapsode import RhapsodeConfig
from rhapsode.modeling.validation import CHOICES
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

LAYER_NORM = {"norm_type": "layer_norm"}
UNTIED = {"tie_word_embeddings": False}
WINDOW = {"sliding_window": 4}
ROPE = {
    "default": {},
    "a part": {"rope_type": "default", "partial_rotary_factor": 0.5},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8},
    "longrope": {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "original_max_position_embeddings": 8}
    | {"factor": 2.0},
    "proportional": {"partial_rotary_factor": 0.5},
}


def ropes() -> list[dict]:
    return [{"rope_parameters": {"rope_type": kind, "rope_theta": 1e4} | own} for kind, own in ROPE.items()]


# What each field is set to, with what it needs beside itself.
SWITCHES: dict[str, list[dict]] = {
    "norm_type": [{"norm_type": kind} for kind in CHOICES["norm_type"]],
    "norm_affine": [{"norm_affine": False}, {"norm_affine": False} | LAYER_NORM],
    "norm_bias": [{"norm_bias": True} | LAYER_NORM],
    "norm_eps": [{"norm_eps": 0.1}, {"norm_eps": 0.1} | LAYER_NORM],
    "norm_order": [{"norm_order": order} for order in CHOICES["norm_order"]],
    "embedding_norm": [{"embedding_norm": True}],
    "parallel_block": [{"parallel_block": True}],
    "parallel_shared_norm": [{"parallel_block": True, "parallel_shared_norm": False}],
    "residual_multiplier": [{"residual_multiplier": 0.3}, {"residual_multiplier": 0.3, "parallel_block": True}],
    "attention_bias": [{"attention_bias": True}],
    "attention_out_bias": [{"attention_out_bias": True}, {"attention_bias": True, "attention_out_bias": False}],
    "attention_multiplier": [{"attention_multiplier": 0.7}],
    "qk_norm": [{"qk_norm": kind} | norm for kind in CHOICES["qk_norm"] for norm in ({}, LAYER_NORM)],
    "clip_qkv": [{"clip_qkv": 0.2}],
    "sliding_window": [WINDOW],
    "layer_types": [{"layer_types": ["sliding_attention", "full_attention"]} | WINDOW],
    "position_embedding_type": [{"position_embedding_type": kind} for kind in CHOICES["position_embedding_type"]],
    "rope_parameters": ropes(),
    "rope_interleaved": [{"rope_interleaved": True}],
    "no_rope_layers": [{"no_rope_layers": [1, 0]}],
    "mlp_gated": [{"mlp_gated": True}, {"mlp_gated": False}],
    "hidden_act": [{"hidden_act": name, "mlp_gated": gated} for name in ACT2FN for gated in (True, False)],
    "mlp_bias": [{"mlp_bias": True}, {"mlp_bias": True, "mlp_gated": False}],
    "tie_word_embeddings": [{"tie_word_embeddings": True}, UNTIED],
    "embedding_multiplier": [{"embedding_multiplier": 3.0}],
    "lm_head_bias": [{"lm_head_bias": True}, {"lm_head_bias": True} | UNTIED],
    "logit_scale": [{"logit_scale": 0.3}],
    "final_logit_softcapping": [{"final_logit_softcapping": 2.0}],
    "attention_dropout": [{"attention_dropout": 0.3}],
    "residual_dropout": [{"residual_dropout": 0.3}, {"residual_dropout": 0.3, "parallel_block": True}],
    "embedding_dropout": [{"embedding_dropout": 0.3}],
    "num_key_value_heads": [{"num_key_value_heads": K} for K in (1, 2, 4)],
    "head_dim": [{"head_dim": 6}],
}
NO_ARITHMETIC = {
    # How large the parts are
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    "max_position_embeddings",
    # What the model begins with, how it generates, and which tokens are special
    *("initializer_range", "use_cache", "pad_token_id", "bos_token_id", "eos_token_id"),
}
SIZES = {"vocab_size": 40, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 48, "max_position_embeddings": 32}


def test_no_switch_is_forgotten():
    own = {name for name, kind in RhapsodeConfig.__annotations__.items() if "ClassVar" not in str(kind)}
    assert own == NO_ARITHMETIC | set(SWITCHES) and not NO_ARITHMETIC & set(SWITCHES)
    for name in CHOICES:
        assert {overrides[name] for overrides in SWITCHES[name]} == set(CHOICES[name])
    kinds = {overrides["rope_parameters"]["rope_type"] for overrides in SWITCHES["rope_parameters"]}
    assert kinds == {"default", *ROPE_INIT_FUNCTIONS}


@pytest.fixture
def drawn(seed, randomised):
    """Of a configuration a model in float64 and its loss on random tokens, another one each time."""

    def make(train: bool = False, **overrides):
        model = randomised(RhapsodeConfig(**SIZES | overrides)).double().train(train)
        x = torch.randint(3, SIZES["vocab_size"], (2, 12))

        def loss():
            with torch.random.fork_rng():
                torch.manual_seed(seed)  # the same draws of dropout each time
                logits = model(x, use_cache=False).logits[:, :-1]
            return F.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())

        return model, loss

    return make


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("field", [name for name in SWITCHES if name != "hidden_act"])
def test_the_gradient_is_the_derivative(field, kernel, is_the_derivative, drawn):
    for overrides in SWITCHES[field]:
        make = partial(drawn, "dropout" in field, attn_implementation=kernel, **overrides)
        assert is_the_derivative(make), overrides


def test_of_every_activation_too(is_the_derivative, drawn):
    for overrides in SWITCHES["hidden_act"]:
        assert is_the_derivative(partial(drawn, **overrides)), overrides


# Of an error of a tenth of a percent one direction in some dozens shows too little, where this matrix hardly counts.
@pytest.mark.parametrize("wrong", [0.9, 1.1, 0.0])
def test_a_wrong_gradient_of_one_matrix_is_noticed(wrong, is_the_derivative, drawn):
    def make():
        model, loss = drawn()
        model.model.layers[1].mlp.up_proj.weight.register_hook(lambda grad: wrong * grad)
        return model, loss

    assert not is_the_derivative(make)
