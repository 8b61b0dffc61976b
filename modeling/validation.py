"""What a configuration must satisfy. Each message names the setting, its value, what is allowed and the fix."""

import math
from difflib import get_close_matches

from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

CHOICES = {
    "norm_type": ("rms_norm", "layer_norm"),
    "norm_order": ("pre", "output", "sandwich", "post"),
    "qk_norm": ("none", "head", "per_head", "full"),
    "position_embedding_type": ("rope", "learned", "sinusoidal", "none"),
    "hidden_act": ACT2FN,
}
ABOVE_ZERO = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
ABOVE_ZERO += ("num_key_value_heads", "head_dim", "max_position_embeddings", "sliding_window", "norm_eps")
ABOVE_ZERO += ("clip_qkv", "final_logit_softcapping", "attention_multiplier")
FINITE = ("norm_eps", "clip_qkv", "final_logit_softcapping", "residual_multiplier", "attention_multiplier")
FINITE += ("embedding_multiplier", "logit_scale", "initializer_range")
ROPE_NEEDS = dict.fromkeys(("linear", "dynamic", "yarn"), ("factor",)) | {
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}
ROPE_NUMBERS = ("rope_theta", "factor", "partial_rotary_factor", "original_max_position_embeddings", "attention_factor")
ROPE_NUMBERS += ("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow")
ROPE_LISTS = ("short_factor", "long_factor")


def check_architecture(config) -> None:
    """Raise `ValueError` for the first setting, or combination of settings, that no network can have."""
    for name, allowed in CHOICES.items():
        check_choice(name, getattr(config, name), allowed)
    for problem in _problems(config):
        raise ValueError(problem)


def check_choice(name: str, value: str, allowed) -> None:
    if value not in allowed:
        nearest = get_close_matches(str(value), list(allowed), n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"use one of {', '.join(sorted(allowed))}"
        raise ValueError(f"{name}={value!r} is unknown; {hint}")


def _problems(c):
    for name in FINITE:
        if (value := getattr(c, name)) is not None and not math.isfinite(value):
            yield f"{name}={value} is not a finite number; give one"
    for name in ABOVE_ZERO:
        value, default = getattr(c, name), c.__dataclass_fields__[name].default
        if value is not None and not value > 0:
            yield f"{name}={value} must be above 0" + (", or None" if default is None else "")
    if c.initializer_range < 0:
        yield f"initializer_range={c.initializer_range} is a standard deviation; use 0 or more"
    for name in ("attention_dropout", "residual_dropout", "embedding_dropout"):
        if not 0 <= getattr(c, name) < 1:
            yield f"{name}={getattr(c, name)} is not a probability; use 0.0 up to, but not, 1.0"
    if c.pad_token_id is not None and not 0 <= c.pad_token_id < c.vocab_size:
        yield f"pad_token_id={c.pad_token_id} is outside the vocabulary; use 0 to {c.vocab_size - 1}, or None"
    H, K = c.num_attention_heads, c.num_key_value_heads
    if H % K != 0:
        *rest, last = [str(n) for n in range(1, H + 1) if H % n == 0]
        yield f"num_attention_heads={H} is not a multiple of num_key_value_heads={K}; use {', '.join(rest)} or {last}"
    if c.norm_bias and c.norm_type == "rms_norm":
        yield "norm_bias=True with norm_type='rms_norm': RMSNorm has no offset; use norm_type='layer_norm'"
    if c.norm_bias and not c.norm_affine:
        yield "norm_bias=True with norm_affine=False: set norm_affine=True or norm_bias=False"
    if c.parallel_block and c.norm_order != "pre":
        yield f"parallel_block=True with norm_order={c.norm_order!r}: only 'pre' exists; set it"
    for name in ("no_rope_layers", "rope_interleaved"):
        if getattr(c, name) and c.position_embedding_type != "rope":
            yield f"{name}={getattr(c, name)} with position_embedding_type={c.position_embedding_type!r}; use 'rope'"
    L, types, rotates = c.num_hidden_layers, getattr(c, "layer_types", None), c.no_rope_layers
    if types is not None and len(types) != L:
        yield f"layer_types has {len(types)} entries for num_hidden_layers={L}; give one per layer"
    for i, kind in enumerate(types or []):
        check_choice(f"layer_types[{i}]", kind, ("full_attention", "sliding_attention"))
    if "sliding_attention" in (types or []) and c.sliding_window is None:
        yield "layer_types has 'sliding_attention' but sliding_window is None; set sliding_window"
    if rotates is not None and (len(rotates) != L or set(rotates) - {0, 1}):
        yield f"no_rope_layers={rotates} must have a 0 or a 1 for each of the num_hidden_layers={L} layers"
    if c.position_embedding_type == "rope":
        yield from _rope_problems(c)


def _rope_problems(c):
    C, rope = c.head_dim, c.rope_parameters
    if any(isinstance(value, dict) for value in rope.values()):
        yield f"rope_parameters={rope} has a set per layer type; give one for all layers: rope_type, rope_theta, ..."
    check_choice("rope_type in rope_parameters", rope["rope_type"], ("default", *ROPE_INIT_FUNCTIONS))
    for key in ROPE_NEEDS.get(rope["rope_type"], ()):
        if rope.get(key) is None:
            yield f"rope_type={rope['rope_type']!r} in rope_parameters needs {key!r}; give it, or use 'default'"
    for key, value in rope.items():
        yield from _rope_value_problems(key, value)
    factor = rope.get("partial_rotary_factor", 1.0)
    if (R := int(C * factor)) < 2 or R % 2 != 0 or R > C:
        yield f"head_dim={C} with partial_rotary_factor={factor} rotates {R}; use an even number from 2 to head_dim"
    for key in ROPE_LISTS if rope["rope_type"] == "longrope" else ():
        if not isinstance(rope[key], list | tuple) or len(rope[key]) != R // 2:
            yield f"{key}={rope[key]} in rope_parameters must be {R // 2} numbers, one for each pair that rotates"
    if rope["rope_type"] == "llama3" and not rope["low_freq_factor"] < rope["high_freq_factor"]:
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        yield f"low_freq_factor={low} in rope_parameters must be below high_freq_factor={high}"


def _rope_value_problems(key: str, value):
    if key not in (*ROPE_NUMBERS, *ROPE_LISTS) or value is None:
        return
    for number in value if isinstance(value, list | tuple) and key in ROPE_LISTS else [value]:
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if not is_number or not math.isfinite(number):
            yield f"{key}={value!r} in rope_parameters is not a finite number; give one"
        elif number < 0 or (number == 0 and key != "partial_rotary_factor"):
            yield f"{key}={value!r} in rope_parameters must be above 0"
