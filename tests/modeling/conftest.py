"""The configurations that the behaviours are tried on, and how a model is built for a test.

Presets that are alike once they are tiny are tried once (`test_presets.py` shows that they are alike). `SWITCHES` adds
what no preset has.
"""

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM

PRESETS = ("olmo-7b", "llama2-7b", "openlm-7b", "falcon-7b", "palm-8b", "gpt2", "gpt1", "vaswani-base")
PRESETS += ("rhapsode-10m", "rhapsode-50m")
LAYER_NORM = {"norm_type": "layer_norm", "norm_bias": True}
SWITCHES = {
    "olmo2": {"norm_order": "output", "qk_norm": "full", "num_key_value_heads": 2, "clip_qkv": 0.5},
    "gemma2": {
        "norm_order": "sandwich",
        "final_logit_softcapping": 5.0,
        "embedding_multiplier": 8.0,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "neox": {
        **LAYER_NORM,
        "parallel_block": True,
        "parallel_shared_norm": False,
        "attention_bias": True,
        "mlp_bias": True,
        "mlp_gated": False,
        "qk_norm": "none",
        "lm_head_bias": True,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    },
    "cohere": {"norm_type": "layer_norm", "parallel_block": True, "qk_norm": "per_head", "logit_scale": 0.5}
    | {"rope_interleaved": True, "num_key_value_heads": 2},
    "granite": {"residual_multiplier": 0.5, "attention_multiplier": 0.1, "embedding_norm": True}
    | {"attention_bias": True, "attention_out_bias": False},
    "nope": {"position_embedding_type": "none", "sliding_window": 6},
    "smollm3": {"no_rope_layers": [1, 0], "num_key_value_heads": 1},
    "yarn": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
}
CONFIGS = (*PRESETS, *SWITCHES)


@pytest.fixture(params=CONFIGS)
def name(request) -> str:
    """Each design in turn."""
    return request.param


@pytest.fixture(params=PRESETS)
def preset(request) -> str:
    """Each named design in turn."""
    return request.param


@pytest.fixture(scope="session")
def configure():
    """The configuration of a design at a size for a test, with a pad token that is none of the others."""

    def make(name: str, **overrides) -> RhapsodeConfig:
        overrides = {"pad_token_id": 0, **overrides}
        if name in SWITCHES:
            overrides = {**SWITCHES[name], **overrides}
        return RhapsodeConfig.from_preset(f"{name if name in PRESETS else 'rhapsode-125m'}-tiny", **overrides)

    return make


@pytest.fixture
def build(configure, seed):
    """A model with every parameter random, norms and biases too: a part that is forgotten then shows."""

    def make(name: str, model_class=RhapsodeForCausalLM, **overrides):
        return randomise(model_class(configure(name, **overrides))).eval()

    return make


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            around = 1.0 if "norm" in key and key.endswith("weight") else 0.0
            parameter.normal_(around, 0.1)
    return model


@pytest.fixture
def randomised(seed):
    """A causal language model of a configuration, every parameter random."""

    def make(config: RhapsodeConfig) -> RhapsodeForCausalLM:
        return randomise(RhapsodeForCausalLM(config)).eval()

    return make


@pytest.fixture
def ids(seed):
    """Random tokens (B, T) that are none of the special ones."""

    def make(*shape: int) -> torch.Tensor:
        return torch.randint(3, 512, shape)

    return make


@pytest.fixture(scope="session")
def assert_near():
    """Largest difference below `tolerance` times the largest expected value."""

    def check(result: torch.Tensor, expected: torch.Tensor, tolerance: float):
        assert result.shape == expected.shape
        difference = (result.double() - expected.double()).abs().max().item()
        largest = expected.abs().max().item()
        assert difference <= tolerance * largest, f"differs by {difference:.2e} where the largest is {largest:.2e}"

    return check
