"""What a configuration must satisfy. Each message names the setting, its value, what is allowed and the fix."""

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
ABOVE_ZERO += ("clip_qkv", "final_logit_softcapping")
ROPE_NEEDS = dict.fromkeys(("linear", "dynamic", "yarn"), ("factor",)) | {
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}


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
    for name in ABOVE_ZERO:
        value, default = getattr(c, name), c.__dataclass_fields__[name].default
        if value is not None and not value > 0:
            yield f"{name}={value} must be above 0" + (", or None" if default is None else "")
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
    factor = rope.get("partial_rotary_factor", 1.0)
    if (R := int(C * factor)) < 2 or R % 2 != 0 or R > C:
        yield f"head_dim={C} with partial_rotary_factor={factor} rotates {R}; use an even number from 2 to head_dim"
