"""`save_foreign` writes any model whose switches the family has, and names what the family lacks."""

import json

import pytest
import torch
from rhapsode.hub import save_foreign
from rhapsode.hub.families import FAMILIES
from rhapsode.hub.family import PLAIN, SIZES, TOKENS, TRAINING, to_rhapsode
from rhapsode.modeling import RhapsodeConfig, RhapsodeForCausalLM, RhapsodeForSequenceClassification
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.configuration_utils import PreTrainedConfig

LENGTH = 112
LOGITS_TOLERANCE = 3e-6  # float32 rounding of sums in another order, relative to the largest logit
# What a family's tiny configuration cannot do without; `test_families.py` has all the styles.
HEADED = {name: {"head_dim": 16} for name, row in FAMILIES.items() if row.head_dim == "field" or name == "helium"}
NEEDED = HEADED | {
    "gemma2": {"attn_logit_softcapping": None, "head_dim": 16},
    "vaultgemma": {"attn_logit_softcapping": None, "head_dim": 16},
    "gpt_neo": {"attention_types": [[["local", "global"], 1]], "window_size": 9},
    "gptj": {"rotary_dim": 8},
    "codegen": {"rotary_dim": 8},
}
LINEAR = {"rope_type": "linear", "rope_theta": 20000.0, "factor": 2.0}
FROM_PRESETS = {
    "olmo-7b-tiny": "olmo",
    "llama2-7b-tiny": "llama",
    "falcon-7b-tiny": "falcon",
    "gpt2-tiny": "gpt2",
    "gpt1-tiny": "openai-gpt",
    "rhapsode-10m-tiny": "qwen3",
    "rhapsode-1b-tiny": "qwen3",
}
CANNOT = {
    "llama": ({"qk_norm": "head"}, "qk_norm='head', where the family has 'none'"),
    "qwen2": ({"qk_norm": "none"}, "attention_bias=False, where the family has True"),
    "qwen3": ({"norm_order": "sandwich"}, "norm_order='sandwich', where the family has 'pre'"),
    "mistral": (
        {"qk_norm": "none", "sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]},
        "sliding_window=9",
    ),
    "gpt2": ({"qk_norm": "none"}, "position_embedding_type='rope', where the family has 'learned'"),
    "gemma": ({"qk_norm": "none", "hidden_act": "gelu_pytorch_tanh"}, "embedding_multiplier=1.0, where the family has"),
    "helium": ({"qk_norm": "none", "head_dim": 32, "rope_interleaved": True}, "head_dim=32, where the family has 16"),
    "falcon": ({"qk_norm": "none"}, "norm_type='rms_norm', where the family has 'layer_norm'"),
    "olmo2": ({"qk_norm": "full", "norm_order": "output", "clip_qkv": 8.0}, "clip_qkv=8.0, where the family has None"),
    "exaone4": (
        {"qk_norm": "head", "norm_order": "output", "no_rope_layers": [0, 1]},
        "no_rope_layers=[0, 1], where the family has [1, 1]",
    ),
    "smollm3": (
        {
            "qk_norm": "none",
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        },
        "partial_rotary_factor=0.5",
    ),
    "phi3": ({"qk_norm": "none", "rope_parameters": LINEAR}, "must be one of ['longrope'], got linear"),
    "gptj": (
        {
            **{"qk_norm": "none", "norm_type": "layer_norm", "norm_bias": True, "num_key_value_heads": 4},
            **{"parallel_block": True, "mlp_gated": False, "mlp_bias": True, "rope_interleaved": True},
            **{"lm_head_bias": True, "norm_eps": 1e-5, "hidden_act": "gelu_new"},
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
        },
        "rope_theta",
    ),
}


def tiny_model(tools, **settings):
    fields = {"vocab_size": tools.vocabulary, **tools.sizes, **settings}
    return tools.randomise(RhapsodeForCausalLM(RhapsodeConfig(**fields))).eval()


def assert_opens_with_equal_logits(ours, family, directory, tools):
    theirs, info = AutoModelForCausalLM.from_pretrained(
        directory, attn_implementation="eager", output_loading_info=True
    )
    assert theirs.config.model_type == family
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    ours.set_attn_implementation("eager")
    ids = torch.randint(ours.config.vocab_size, (2, LENGTH))
    with torch.no_grad():
        difference = tools.relative_difference(ours.eval()(ids).logits, theirs.eval()(ids).logits)
    assert difference < LOGITS_TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_our_own(family, seed, tools, tmp_path):
    """From a `RhapsodeConfig` alone, in a shape that the family's defaults do not have."""
    row = FAMILIES[family]
    like = to_rhapsode(row, tools.config(family, **NEEDED.get(family, {})))
    fields = {name: getattr(like, name, None) for name in (*SIZES, *PLAIN)}
    changes = {"tie_word_embeddings": not like.tie_word_embeddings, "hidden_act": "relu"}
    changes |= {"intermediate_size": 4 * like.hidden_size}  # GPT-1 has no other
    if row.head_dim != "derived":
        changes["head_dim"] = 32
    if row.rope == "whole":
        changes["rope_parameters"] = LINEAR
    if row.rope == "partial" and family != "phi3":  # whose class takes no scaling but longrope
        changes["rope_parameters"] = LINEAR | {"partial_rotary_factor": 0.25 if like.head_dim == 16 else 1.0}
    if "num_key_value_heads" in row.fields:
        changes["num_key_value_heads"] = 1
    ours = tools.randomise(RhapsodeForCausalLM(RhapsodeConfig(**fields | changes)))
    save_foreign(ours, tmp_path, family)
    assert_opens_with_equal_logits(ours, family, tmp_path, tools)


@pytest.mark.parametrize("preset", FROM_PRESETS)
def test_presets(preset, seed, tools, tmp_path):
    ours = tools.randomise(RhapsodeForCausalLM(RhapsodeConfig.from_preset(preset)))
    save_foreign(ours, tmp_path, FROM_PRESETS[preset])
    assert_opens_with_equal_logits(ours, FROM_PRESETS[preset], tmp_path, tools)


def test_a_model_without_positions(seed, tools, tmp_path):
    """EXAONE 4 turns the rotation of its full layers off by having a window, even one that no layer uses."""
    ours = tiny_model(tools, norm_order="output", position_embedding_type="none")
    save_foreign(ours, tmp_path, "exaone4")
    assert_opens_with_equal_logits(ours, "exaone4", tmp_path, tools)


@pytest.mark.parametrize("family", CANNOT)
def test_names_what_the_family_lacks(family, tools, tmp_path):
    settings, expected = CANNOT[family]
    with pytest.raises(ValueError) as error:
        save_foreign(tiny_model(tools, **settings), tmp_path, family)
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_every_switch_of_the_configuration_is_compared():
    """A switch that `describe` does not know would be dropped in silence."""
    own = RhapsodeConfig.__dataclass_fields__.keys() - PreTrainedConfig.__dataclass_fields__.keys()
    not_switches = {"use_cache", "keys_to_ignore_at_inference"}
    assert own - not_switches == {*SIZES, *PLAIN, *TRAINING, *TOKENS}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shards_dtypes_and_what_was_there_before(dtype, seed, tools, tmp_path):
    ours = tiny_model(tools, qk_norm="none", vocab_size=1024, tie_word_embeddings=False).to(dtype)
    ours.generation_config.max_new_tokens = 5
    save_foreign(ours, tmp_path, "llama")
    whole = load_file(tmp_path / "model.safetensors")
    save_foreign(ours, tmp_path, "llama", max_shard_size="100KB")
    assert not (tmp_path / "model.safetensors").exists()  # it would be loaded in place of the shards
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in whole.values())
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.dtype == dtype and theirs.generation_config.max_new_tokens == 5
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, whole[name])
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["dtype"] == str(dtype).removeprefix("torch.")
    save_foreign(ours, tmp_path, "llama")
    assert {file.name for file in tmp_path.glob("model*")} == {"model.safetensors"}


def test_training_settings_without_a_place_are_named(tools, tmp_path, caplog):
    from transformers.utils import logging

    root = logging.get_logger("transformers")
    root.propagate, before = True, root.propagate
    try:
        save_foreign(tiny_model(tools, qk_norm="none", residual_dropout=0.1), tmp_path, "llama")
    finally:
        root.propagate = before
    assert "residual_dropout" in caplog.text


def test_refuses_what_is_not_a_language_model_of_ours(tools, tmp_path):
    model = tiny_model(tools, qk_norm="none")
    with pytest.raises(ValueError, match="did you mean 'llama'"):
        save_foreign(model, tmp_path, "lama")
    with pytest.raises(ValueError, match="ALiBi"):
        save_foreign(model, tmp_path, "bloom")
    with pytest.raises(ValueError, match="RhapsodeForSequenceClassification cannot"):
        save_foreign(RhapsodeForSequenceClassification(model.config), tmp_path, "llama")
    with pytest.raises(ValueError, match="meta"):
        save_foreign(tiny_model(tools, qk_norm="none").to("meta"), tmp_path, "llama")
