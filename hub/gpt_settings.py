"""Settings of the families around GPT that take more than copying a field: each as a pair of `read` and `write`.

`read_x(theirs)` gives fields of `RhapsodeConfig`, `write_x(ours)` fields of the family's configuration.
"""

import math

from .llama_settings import read_window, write_window


def read_inner(theirs) -> dict:
    return {"intermediate_size": theirs.n_inner or 4 * theirs.n_embd}


def write_inner(ours) -> dict:
    return {"n_inner": ours.intermediate_size}


def read_gpt2(theirs) -> dict:
    return read_inner(theirs) | {"attention_multiplier": None if theirs.scale_attn_weights else 1.0}


def write_gpt2(ours) -> dict:
    return write_inner(ours) | {"scale_attn_weights": ours.attention_multiplier != 1.0}


def read_gpt_bigcode(theirs) -> dict:
    return read_gpt2(theirs) | {"num_key_value_heads": 1 if theirs.multi_query else theirs.n_head}


def write_gpt_bigcode(ours) -> dict:
    return write_gpt2(ours) | {"multi_query": ours.num_key_value_heads == 1}


GPT1_ACTIVATIONS = {"gelu": "gelu_new", "silu": "silu", "relu": "relu", "swish": "silu"}  # its "gelu" is the tanh one


def read_gpt1(theirs) -> dict:
    if theirs.afn not in GPT1_ACTIVATIONS:
        raise ValueError(f"afn={theirs.afn!r}: use one of {', '.join(GPT1_ACTIVATIONS)}")
    return {"intermediate_size": 4 * theirs.n_embd, "hidden_act": GPT1_ACTIVATIONS[theirs.afn]}


def write_gpt1(ours) -> dict:
    names = {ours_name: afn for afn, ours_name in reversed(GPT1_ACTIVATIONS.items())}
    return {"afn": names.get(ours.hidden_act, "gelu")}


def read_gptj(theirs) -> dict:
    """Only the first `rotary_dim` elements of a head rotate, at a base of 10,000."""
    if not theirs.rotary_dim:
        raise ValueError(f"rotary_dim={theirs.rotary_dim!r}: state how many elements of a head rotate")
    head_dim = theirs.n_embd // theirs.n_head
    factor = theirs.rotary_dim / head_dim
    if int(head_dim * factor) < theirs.rotary_dim:  # the product is cut to an integer, and may fall just below it
        factor = math.nextafter(factor, math.inf)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": factor}
    return read_inner(theirs) | {"rope_parameters": rope}


def write_gptj(ours) -> dict:
    factor = (getattr(ours, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0)
    return write_inner(ours) | {"rotary_dim": int(ours.head_dim * factor)}


def read_codegen(theirs) -> dict:
    if theirs.n_head % 4 != 0:
        raise ValueError(f"n_head={theirs.n_head} is not a multiple of the 4 blocks that CodeGen packs its heads in")
    return read_gptj(theirs)


def read_gpt_neo(theirs) -> dict:
    kinds = {"global": "full_attention", "local": "sliding_attention"}
    types = [kinds[kind] for kind in theirs.attention_layers]
    windows = {"sliding_window": theirs.window_size, "layer_types": types} if "sliding_attention" in types else {}
    return windows | {"intermediate_size": theirs.intermediate_size or 4 * theirs.hidden_size}


def write_gpt_neo(ours) -> dict:
    types = ["local" if kind == "sliding_attention" else "global" for kind in ours.attention_types()]
    fields = {"attention_types": [[types, 1]], "intermediate_size": ours.intermediate_size}
    return fields | ({"window_size": ours.sliding_window} if "local" in types else {})


def read_opt(theirs) -> dict:
    affine, bias = theirs.layer_norm_elementwise_affine, theirs.enable_bias
    return {
        "norm_order": "pre" if theirs.do_layer_norm_before else "post",
        "norm_affine": affine,
        "norm_bias": affine,
        "attention_bias": bias,
        "mlp_bias": bias,
    }


def write_opt(ours) -> dict:
    return {
        "do_layer_norm_before": ours.norm_order != "post",
        "layer_norm_elementwise_affine": ours.norm_affine,
        "enable_bias": ours.attention_bias,
        "word_embed_proj_dim": ours.hidden_size,
    }


FC_MODULES = {"mlp.up_proj": "fc1", "mlp.down_proj": "fc2", "self_attn.o_proj": "self_attn.out_proj"}
NEOX_MODULES = {
    "self_attn.qkv_proj": "attention.query_key_value",
    "self_attn.o_proj": "attention.dense",
    "mlp.up_proj": "mlp.dense_h_to_4h",
    "mlp.down_proj": "mlp.dense_4h_to_h",
}


def names_opt(ours) -> dict:
    before = ours.norm_order != "post"
    norms = ("input_layernorm", "post_attention_layernorm", "post_feedforward_layernorm")[0 if before else 1 :]
    return FC_MODULES | {
        "model.embed_tokens": "model.decoder.embed_tokens",
        "model.embed_positions": "model.decoder.embed_positions",
        "model.layers": "model.decoder.layers",
        "model.norm": "model.decoder.final_layer_norm",
        norms[0]: "self_attn_layer_norm",
        norms[1]: "final_layer_norm",
    }


def read_biogpt(theirs) -> dict:
    return {"embedding_multiplier": theirs.hidden_size**0.5 if theirs.scale_embedding else 1.0}


def write_biogpt(ours) -> dict:
    return {"scale_embedding": ours.embedding_multiplier != 1.0}


def read_falcon(theirs) -> dict:
    """Three styles: RW (sequential), 7B (`multi_query`, parallel), 40B and 11B (`new_decoder_architecture`)."""
    new = theirs.new_decoder_architecture
    norms = (theirs.num_ln_in_parallel_attn or 2) if new else 1
    return {
        "num_key_value_heads": theirs.num_kv_heads if new or not theirs.multi_query else 1,
        "parallel_block": theirs.parallel_attn,
        "parallel_shared_norm": norms == 1,
        "attention_bias": theirs.bias,
        "mlp_bias": theirs.bias,
    }


def write_falcon(ours) -> dict:
    H, K = ours.num_attention_heads, ours.num_key_value_heads
    two_norms = ours.parallel_block and not ours.parallel_shared_norm
    new = two_norms or K not in (1, H)
    return {
        "num_kv_heads": K,
        "multi_query": K == 1,
        "parallel_attn": ours.parallel_block or new,  # the new style is parallel; the comparison finds one that is not
        "new_decoder_architecture": new,
        "num_ln_in_parallel_attn": (2 if two_norms else 1) if new else None,
        "bias": ours.attention_bias,
    }


def names_falcon(ours) -> dict:
    attention = {name: path.replace("attention.", "self_attention.") for name, path in NEOX_MODULES.items()}
    two_norms = ours.parallel_block and not ours.parallel_shared_norm
    norms = {"input_layernorm": "ln_attn", "post_attention_layernorm": "ln_mlp"} if two_norms else {}
    return (
        attention
        | norms
        | {
            "model.embed_tokens": "transformer.word_embeddings",
            "model.layers": "transformer.h",
            "model.norm": "transformer.ln_f",
        }
    )


def read_qk_layernorm(theirs) -> dict:
    return {"qk_norm": "head" if theirs.qk_layernorm else "none"}


def write_qk_layernorm(ours) -> dict:
    return {"qk_layernorm": ours.qk_norm == "head"}


def read_starcoder2(theirs) -> dict:
    return read_window(theirs) | {"attention_bias": theirs.use_bias, "mlp_bias": theirs.use_bias}


def write_starcoder2(ours) -> dict:
    return write_window(ours) | {"use_bias": ours.attention_bias}
