"""Settings of the families around Llama that take more than copying a field: each as a pair of `read` and `write`.

`read_x(theirs)` gives fields of `RhapsodeConfig`, `write_x(ours)` fields of the family's configuration.
"""

from .family import read_rope, write_rope

WINDOWS = ("sliding_window", "layer_types")


# Sliding windows


def read_windows(theirs) -> dict:
    """`layer_types` and a window: the list is kept only where the layers differ."""
    types = theirs.layer_types
    if theirs.sliding_window is None or "sliding_attention" not in types:
        return {}
    mixed = "full_attention" in types
    return {"sliding_window": theirs.sliding_window, "layer_types": list(types) if mixed else None}


def write_windows(ours) -> dict:
    types = ours.attention_types()
    return {"layer_types": types} | ({"sliding_window": ours.sliding_window} if "sliding_attention" in types else {})


def write_switched_windows(ours) -> dict:
    """As Qwen does: the window counts only where `use_sliding_window` is set."""
    return write_windows(ours) | {"use_sliding_window": "sliding_attention" in ours.attention_types()}


def read_switched_windows(theirs) -> dict:
    if theirs.use_sliding_window:
        return read_windows(theirs)
    if "sliding_attention" in theirs.layer_types:
        raise ValueError("layer_types has 'sliding_attention' but use_sliding_window=False: which of the two holds?")
    return {}


def read_window(theirs) -> dict:
    """One window for all layers."""
    return {"sliding_window": theirs.sliding_window}


def write_window(ours) -> dict:
    return {"sliding_window": None if "full_attention" in ours.attention_types() else ours.sliding_window}


SWITCHED_WINDOWS = {
    "read": read_switched_windows,
    "write": write_switched_windows,
    "inert": (*WINDOWS, "use_sliding_window", "max_window_layers"),
}
ONE_WINDOW = {"read": read_window, "write": write_window}


# Layers without rotation


def read_smollm3(theirs) -> dict:
    return read_switched_windows(theirs) | {"no_rope_layers": list(theirs.no_rope_layers)}


def write_smollm3(ours) -> dict:
    rotates = [int(ours.uses_rope(i)) for i in range(ours.num_hidden_layers)]
    return write_switched_windows(ours) | {"no_rope_layers": rotates}


def _rotating(theirs) -> list[int]:
    return [int(kind == "sliding_attention" and theirs.sliding_window is not None) for kind in theirs.layer_types]


def read_cohere2(theirs) -> dict:
    return read_windows(theirs) | {"no_rope_layers": _rotating(theirs)}


def read_exaone4(theirs) -> dict:
    return read_windows(theirs) | ({} if theirs.sliding_window is None else {"no_rope_layers": _rotating(theirs)})


def write_exaone4(ours) -> dict:
    fields = {"sliding_window": None} | write_windows(ours)
    # A window is what turns the rotation of full layers off, so a model without one still needs a number there.
    unrotated = not any(ours.uses_rope(i) for i in range(ours.num_hidden_layers))
    return fields | ({"sliding_window": ours.max_position_embeddings} if unrotated else {})


def read_olmo3(theirs) -> dict:
    """One set of rotary parameters for each type of layer; those of a type that does not occur do not count."""
    used = {kind: theirs.rope_parameters[kind] for kind in dict.fromkeys(theirs.layer_types)}
    return read_windows(theirs) | {"rope_parameters": read_rope(used, partial=False)}


def write_olmo3(ours) -> dict:
    rope = {kind: write_rope(ours, partial=False) for kind in ("sliding_attention", "full_attention")}
    return write_windows(ours) | {"rope_parameters": rope}


# Scales and switches of single families


def read_granite(theirs) -> dict:
    return {"logit_scale": 1 / theirs.logits_scaling}


def write_granite(ours) -> dict:
    return {"logits_scaling": 1 / ours.logit_scale, "attention_multiplier": score_scale(ours)}


def score_scale(ours) -> float:
    return ours.head_dim**-0.5 if ours.attention_multiplier is None else ours.attention_multiplier


def read_hyperclovax(theirs) -> dict:
    return {"norm_order": "sandwich" if theirs.use_post_norm else "pre"}


def write_hyperclovax(ours) -> dict:
    return {"use_post_norm": ours.norm_order == "sandwich", "attention_multiplier": float(score_scale(ours))}


def names_hyperclovax(ours) -> dict:
    if ours.norm_order != "sandwich":
        return {}
    return {
        "post_attention_layernorm": "post_norm1",
        "pre_feedforward_layernorm": "post_attention_layernorm",
        "post_feedforward_layernorm": "post_norm2",
    }


def write_helium(ours) -> dict:
    return {"head_dim": ours.head_dim}


def read_ernie(theirs) -> dict:
    return {"attention_bias": theirs.use_bias, "mlp_bias": theirs.use_bias}


def write_ernie(ours) -> dict:
    return {"use_bias": ours.attention_bias}


def read_cohere(theirs) -> dict:
    return {"qk_norm": "per_head" if theirs.use_qk_norm else "none"}


def write_cohere(ours) -> dict:
    return {"use_qk_norm": ours.qk_norm == "per_head"}


def read_stablelm(theirs) -> dict:
    return {"qk_norm": "per_head" if theirs.qk_layernorm else "none"}


def write_stablelm(ours) -> dict:
    return {"qk_layernorm": ours.qk_norm == "per_head"}


def read_gemma(theirs) -> dict:
    return {"embedding_multiplier": theirs.hidden_size**0.5}


def read_gemma2(theirs) -> dict:
    return read_gemma(theirs) | read_windows(theirs) | {"attention_multiplier": theirs.query_pre_attn_scalar**-0.5}


def write_gemma2(ours) -> dict:
    scalar = round(score_scale(ours) ** -2)  # an integer there; the comparison finds a scale that is not its root
    return write_windows(ours) | {"query_pre_attn_scalar": scalar, "attn_logit_softcapping": None}


def read_phi3(theirs) -> dict:
    return read_window(theirs)


def write_phi3(ours) -> dict:
    rope = getattr(ours, "rope_parameters", None) or {}
    original = rope.get("original_max_position_embeddings") or ours.max_position_embeddings
    return write_window(ours) | {"original_max_position_embeddings": original}
