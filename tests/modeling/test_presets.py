import pytest
import rhapsode
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.modeling.presets import PRESETS, preset

# Table of DESIGN.md, section 2: parameters of the originals, and the batch they were trained with. The last three of
# GPT-2 are published as 355M, 774M and 1558M; the exact numbers are those of transformers' own class.
ORIGINALS = {
    "olmo-7b": (6_888_095_744, 2160),
    "llama2-7b": (6_738_415_616, 1024),
    "openlm-7b": (6_889_676_800, 2048),
    "falcon-7b": (6_921_720_704, 2304),
    "palm-8b": (8_632_012_800, 512),
    "gpt2": (124_439_808, 512),
    "gpt2-medium": (354_823_168, 512),
    "gpt2-large": (774_030_080, 512),
    "gpt2-xl": (1_557_611_200, 512),
    "gpt1": (116_534_784, 64),
}
OUR_SIZES = {"10m": 10e6, "50m": 50e6, "125m": 125e6, "350m": 350e6, "1b": 1e9, "3b": 3e9, "7b": 7e9}
NAMED_AFTER = 0.12  # a size names its model if it is this close
GROUPS = {
    "gpt2": ["gpt2-medium", "gpt2-large", "gpt2-xl"],
    "rhapsode-50m": ["rhapsode-125m", "rhapsode-350m", "rhapsode-1b", "rhapsode-7b"],
}


def count(name: str, **overrides) -> int:
    with torch.device("meta"):
        model = RhapsodeForCausalLM(RhapsodeConfig.from_preset(name, **overrides))
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ORIGINALS)
def test_parameters_and_batch_are_those_of_the_original(name):
    parameters, batch = ORIGINALS[name]
    assert count(name) == parameters
    assert preset(name).batch_instances == batch


def test_parameters_of_the_decoder_without_cross_attention():
    D, F, V, L = 512, 2048, 37000, 6
    attention, feed_forward, norms = 4 * (D * D + D), 2 * D * F + F + D, 2 * 2 * D
    assert count("vaswani-base") == V * D + L * (attention + feed_forward + norms)


@pytest.mark.parametrize("size", OUR_SIZES)
def test_our_own_are_as_large_as_they_are_called(size):
    assert count(f"rhapsode-{size}") == pytest.approx(OUR_SIZES[size], rel=NAMED_AFTER)


def test_every_preset_has_a_tiny_twin():
    names = rhapsode.presets()
    assert names == [*PRESETS, *(f"{name}-tiny" for name in PRESETS)]
    assert set(ORIGINALS) | {"vaswani-base"} | {f"rhapsode-{size}" for size in OUR_SIZES} == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_the_tiny_twin_keeps_the_switches(name):
    full, tiny = RhapsodeConfig.from_preset(name).to_dict(), RhapsodeConfig.from_preset(f"{name}-tiny").to_dict()
    sizes = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim"}
    sizes |= {"num_key_value_heads", "max_position_embeddings", "embedding_multiplier", "bos_token_id", "eos_token_id"}
    assert {key for key in full if full[key] != tiny[key]} <= sizes
    assert count(f"{name}-tiny") < 200_000
    kinds = [
        (c["num_attention_heads"] == c["num_key_value_heads"], c["num_key_value_heads"] == 1) for c in (full, tiny)
    ]
    assert kinds[0] == kinds[1], "multi-head, multi-query or grouped-query"


@pytest.mark.parametrize("first", GROUPS)
def test_presets_that_the_other_tests_leave_out_are_alike_once_tiny(first):
    def switches(name):
        fields = RhapsodeConfig.from_preset(f"{name}-tiny").to_dict()
        fields.pop("intermediate_size")
        return fields

    assert all(switches(other) == switches(first) for other in GROUPS[first])


def test_overrides():
    config = RhapsodeConfig.from_preset("falcon-7b", num_hidden_layers=2, num_labels=5)
    assert (config.num_hidden_layers, config.num_labels, config.num_key_value_heads) == (2, 5, 1)
    assert RhapsodeConfig.from_preset("falcon-7b").num_hidden_layers == 32, "the table itself is left alone"
