import copy
import logging

import pytest
from rhapsode import RhapsodeConfig

# Fields, and what the message must say: the value and the fix.
ILLEGAL = [
    ({"num_attention_heads": 12, "num_key_value_heads": 5}, ["=12", "=5", "use 1, 2, 3, 4, 6 or 12"]),
    ({"hidden_size": 100, "num_attention_heads": 12}, ["hidden_size=100", "num_attention_heads=12", "head_dim"]),
    ({"num_attention_heads": 0}, ["num_attention_heads=0"]),
    ({"num_hidden_layers": 0}, ["num_hidden_layers=0", "above 0"]),
    ({"vocab_size": -1}, ["vocab_size=-1", "above 0"]),
    ({"sliding_window": 0}, ["sliding_window=0", "None"]),
    ({"clip_qkv": -1.0}, ["clip_qkv=-1.0", "None"]),
    ({"final_logit_softcapping": 0.0}, ["final_logit_softcapping=0.0", "None"]),
    ({"norm_eps": 0.0}, ["norm_eps=0.0", "above 0"]),
    ({"attention_dropout": 1.0}, ["attention_dropout=1.0", "0.0 up to"]),
    ({"residual_dropout": -0.1}, ["residual_dropout=-0.1", "0.0 up to"]),
    ({"pad_token_id": 32768}, ["pad_token_id=32768", "0 to 32767"]),
    ({"norm_bias": True}, ["norm_bias=True", "norm_type='layer_norm'"]),
    ({"norm_type": "layer_norm", "norm_bias": True, "norm_affine": False}, ["norm_affine=True or norm_bias=False"]),
    ({"parallel_block": True, "norm_order": "post"}, ["parallel_block=True", "norm_order='post'", "'pre'"]),
    ({"layer_types": ["full_attention"]}, ["1 entries", "num_hidden_layers=12", "one per layer"]),
    ({"layer_types": ["sliding_attention"] * 12}, ["sliding_window is None", "set sliding_window"]),
    ({"layer_types": ["full_atention"] * 12}, ["layer_types[0]='full_atention'", "did you mean 'full_attention'"]),
    ({"no_rope_layers": [1, 0]}, ["no_rope_layers=[1, 0]", "num_hidden_layers=12"]),
    ({"no_rope_layers": [2] * 12}, ["a 0 or a 1"]),
    ({"no_rope_layers": [1] * 12, "position_embedding_type": "learned"}, ["no_rope_layers", "'learned'", "use 'rope'"]),
    ({"rope_interleaved": True, "position_embedding_type": "none"}, ["rope_interleaved=True", "'none'", "use 'rope'"]),
    ({"head_dim": 33}, ["head_dim=33", "even number"]),
    ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.01}}, ["rotates 0", "even number"]),
    ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.5}}, ["rotates 96", "2 to head_dim"]),
    ({"rope_parameters": {"rope_type": "yarm", "factor": 2.0}}, ["rope_type", "'yarm'", "did you mean 'yarn'"]),
    ({"rope_parameters": {"rope_type": "linear"}}, ["rope_type='linear'", "needs 'factor'"]),
    ({"rope_parameters": {"rope_type": "dynamic"}}, ["rope_type='dynamic'", "needs 'factor'"]),
    ({"rope_parameters": {"rope_type": "yarn"}}, ["rope_type='yarn'", "needs 'factor'"]),
    ({"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, ["rope_type='llama3'", "needs 'low_freq_factor'"]),
    ({"rope_parameters": {"rope_type": "longrope"}}, ["rope_type='longrope'", "needs 'short_factor'"]),
    (
        {"layer_types": ["full_attention"] * 12, "rope_parameters": {"full_attention": {"rope_type": "default"}}},
        ["rope_parameters", "one for all layers"],
    ),
    ({"norm_type": "rmsnorm"}, ["norm_type='rmsnorm'", "did you mean 'rms_norm'"]),
    ({"norm_order": "before"}, ["norm_order='before'", "pre"]),
    ({"qk_norm": "heads"}, ["qk_norm='heads'", "did you mean 'head'"]),
    ({"position_embedding_type": "sinusoid"}, ["position_embedding_type='sinusoid'", "did you mean 'sinusoidal'"]),
    ({"hidden_act": "gelu_nwe"}, ["hidden_act='gelu_nwe'", "did you mean 'gelu_new'"]),
]


@pytest.mark.parametrize(("fields", "says"), ILLEGAL, ids=[str(fields)[1:60] for fields, _ in ILLEGAL])
def test_what_no_network_can_have_is_refused_with_the_fix(fields, says):
    with pytest.raises(ValueError) as refused:
        RhapsodeConfig(**fields)
    for part in says:
        assert part in str(refused.value)


def test_a_preset_with_a_misspelt_name_or_field_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'falcon-7b'"):
        RhapsodeConfig.from_preset("falcon7b")
    with pytest.raises(ValueError, match="did you mean 'num_hidden_layers'"):
        RhapsodeConfig.from_preset("falcon-7b", num_hiden_layers=2)


def test_an_edit_after_construction_is_checked_before_saving(tmp_path):
    config = RhapsodeConfig()
    config.num_key_value_heads = 5
    with pytest.raises(Exception, match="num_key_value_heads=5"):
        config.save_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("given", "derived"),
    [
        ({}, {"num_key_value_heads": 3, "head_dim": 64, "intermediate_size": 2048, "attention_out_bias": False}),
        ({"num_attention_heads": 6}, {"num_key_value_heads": 6, "head_dim": 128}),
        ({"mlp_gated": False}, {"intermediate_size": 3072}),
        ({"attention_bias": True}, {"attention_out_bias": True}),
        ({"attention_bias": True, "attention_out_bias": False}, {"attention_out_bias": False}),
    ],
)
def test_what_is_not_given_follows_from_what_is(given, derived):
    config = RhapsodeConfig(**given)
    assert {key: getattr(config, key) for key in derived} == derived


@pytest.mark.parametrize("kind", ["learned", "sinusoidal", "none"])
def test_what_does_not_rotate_has_no_rotary_parameters(kind, tmp_path):
    """transformers, and tools that read configurations, ask `hasattr(config, "rope_parameters")`."""
    config = RhapsodeConfig(position_embedding_type=kind, rope_theta=1e4)
    config.save_pretrained(tmp_path)
    for each in (config, RhapsodeConfig.from_pretrained(tmp_path), copy.deepcopy(config)):
        assert not hasattr(each, "rope_parameters")
        assert not hasattr(each, "rope_theta")
    assert RhapsodeConfig(position_embedding_type=kind) == RhapsodeConfig(position_embedding_type=kind)
    assert RhapsodeConfig(position_embedding_type=kind) != RhapsodeConfig(position_embedding_type=kind, hidden_size=96)
    assert RhapsodeConfig(position_embedding_type=kind) != RhapsodeConfig()


def test_numbers_may_be_written_as_integers():
    RhapsodeConfig(clip_qkv=8, logit_scale=2, embedding_multiplier=4, attention_dropout=0, norm_eps=1)


def test_a_setting_that_nothing_reads_is_warned_of(caplog):
    logging.getLogger("transformers").propagate = True
    RhapsodeConfig(position_embedding_type="learned", rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    assert "rope_parameters are ignored" in caplog.text


def test_saving_keeps_every_field(name, configure, tmp_path):
    config = configure(name)
    config.save_pretrained(tmp_path)
    loaded = RhapsodeConfig.from_pretrained(tmp_path)
    assert {**loaded.to_dict(), "_name_or_path": ""} == {**config.to_dict(), "_name_or_path": ""}


def test_layer_kinds_follow_transformers_caches(name, configure):
    from transformers.cache_utils import get_layer_types_and_kwargs

    config = configure(name)
    kinds, _ = get_layer_types_and_kwargs(config)
    assert config.attention_types() == kinds
