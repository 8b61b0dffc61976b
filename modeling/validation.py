"""What a configuration must satisfy. Each message names the setting, its value, what is allowed and the fix."""

from difflib import get_close_matches

from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

LAYER_TYPES = ("full_attention", "sliding_attention")


def check_architecture(config) -> None:
    """Raise `ValueError` for the first combination of `config`'s fields that no network can have."""
    for check in (_check_sizes, _check_heads, _check_norms, _check_layers, _check_positions, _check_numbers):
        check(config)
    if config.hidden_act not in ACT2FN:
        nearest = get_close_matches(config.hidden_act, ACT2FN.keys(), n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"use one of {', '.join(sorted(ACT2FN.keys()))}"
        raise ValueError(f"hidden_act={config.hidden_act!r} is not an activation of transformers; {hint}")


def _check_sizes(config):
    for name in (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "max_position_embeddings"),
    ):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)} must be at least 1")
    pad = config.pad_token_id
    if pad is not None and not 0 <= pad < config.vocab_size:
        raise ValueError(
            f"pad_token_id={pad} is outside the vocabulary; use 0 to {config.vocab_size - 1}, or None for no padding"
        )


def _check_heads(config):
    H, K = config.num_attention_heads, config.num_key_value_heads
    if H % K != 0:
        *rest, last = [str(n) for n in range(1, H + 1) if H % n == 0]
        raise ValueError(
            f"num_attention_heads={H} is not a multiple of num_key_value_heads={K}; use {', '.join(rest)} or {last}"
        )


def _check_norms(config):
    if config.norm_bias and config.norm_type == "rms_norm":
        raise ValueError("norm_bias=True with norm_type='rms_norm': RMSNorm has no offset; use norm_type='layer_norm'")
    if config.norm_bias and not config.norm_affine:
        raise ValueError("norm_bias=True with norm_affine=False: set norm_affine=True or norm_bias=False")
    if config.parallel_block and config.norm_order != "pre":
        raise ValueError(f"parallel_block=True with norm_order={config.norm_order!r}: only 'pre' exists; set it")


def _check_layers(config):
    L, types = config.num_hidden_layers, config.layer_types
    if config.sliding_window is not None and config.sliding_window < 1:
        raise ValueError(f"sliding_window={config.sliding_window} must be at least 1; use None for no window")
    if types is None:
        return
    if len(types) != L:
        raise ValueError(f"layer_types has {len(types)} entries for num_hidden_layers={L}; give one per layer")
    for i, kind in enumerate(types):
        if kind not in LAYER_TYPES:
            raise ValueError(f"layer_types[{i}]={kind!r} is unknown; use {' or '.join(map(repr, LAYER_TYPES))}")
    if "sliding_attention" in types and config.sliding_window is None:
        raise ValueError("layer_types has 'sliding_attention' but sliding_window is None; set sliding_window")


def _check_positions(config):
    kind, rope = config.position_embedding_type, config.position_embedding_type == "rope"
    if config.no_rope_layers is not None:
        if not rope:
            raise ValueError(f"no_rope_layers with position_embedding_type={kind!r}: nothing rotates; use 'rope'")
        if len(config.no_rope_layers) != config.num_hidden_layers or set(config.no_rope_layers) - {0, 1}:
            raise ValueError(
                f"no_rope_layers={config.no_rope_layers} must have a 0 or a 1 for each of the "
                f"num_hidden_layers={config.num_hidden_layers} layers"
            )
    if config.rope_interleaved and not rope:
        raise ValueError(f"rope_interleaved=True with position_embedding_type={kind!r}; use 'rope'")
    if rope:
        _check_rope(config)


def _check_rope(config):
    if "rope_type" not in config.rope_parameters:
        raise ValueError(
            f"rope_parameters={config.rope_parameters} holds one set per layer type; "
            "one set for all layers is supported: give rope_type, rope_theta, ..."
        )
    kinds = ["default", *ROPE_INIT_FUNCTIONS]
    if (kind := config.rope_parameters["rope_type"]) not in kinds:
        raise ValueError(f"rope_type={kind!r} in rope_parameters is unknown; use one of {', '.join(kinds)}")
    factor = config.rope_parameters.get("partial_rotary_factor", 1.0)
    rotated = int(config.head_dim * factor)
    if rotated < 2 or rotated % 2 != 0 or rotated > config.head_dim:
        raise ValueError(
            f"head_dim={config.head_dim} with partial_rotary_factor={factor} rotates {rotated} elements; "
            f"that must be an even number from 2 to head_dim"
        )


def _check_numbers(config):
    for name in ("attention_dropout", "residual_dropout", "embedding_dropout"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)} is not a probability; use 0.0 up to, but not, 1.0")
    for name in ("norm_eps", "clip_qkv", "final_logit_softcapping"):
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value} must be above 0" + ("" if name == "norm_eps" else "; use None for none"))
    if config.initializer_range < 0:
        raise ValueError(f"initializer_range={config.initializer_range} must not be negative")
