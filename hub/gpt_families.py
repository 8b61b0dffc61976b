"""The families around GPT: LayerNorm, plain feed-forward layers, biases, and names and packings of their own."""

from . import gpt_settings as settings
from .family import Family, same
from .gpt_settings import FC_MODULES, NEOX_MODULES
from .llama_families import LAYER_NORM, SIZES
from .packing import blocked_qvk, conv1d, conv1d_qkv, grouped_qkv, two_unused_rows

GPT = LAYER_NORM | {"mlp_gated": False}
MULTI_HEAD = {name: theirs for name, theirs in SIZES.items() if name != "num_key_value_heads"}
LAYER_NORM_EPS = {"norm_eps": "layer_norm_eps"}
ALL_BIASES = {"attention_bias": True, "mlp_bias": True}
LEARNED = {"position_embedding_type": "learned"}
GPT2_FIELDS = same("vocab_size", "tie_word_embeddings", "initializer_range") | {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "hidden_act": "activation_function",
    "norm_eps": "layer_norm_epsilon",
    "attention_dropout": "attn_pdrop",
    "residual_dropout": "resid_pdrop",
    "embedding_dropout": "embd_pdrop",
}
GPT2_NAMES = {
    "model.embed_tokens": "transformer.wte",
    "model.embed_positions": "transformer.wpe",
    "model.layers": "transformer.h",
    "model.norm": "transformer.ln_f",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.qkv_proj": "attn.c_attn",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}
GPT1_NAMES = {name: theirs for name, theirs in GPT2_NAMES.items() if name not in ("model.norm", "input_layernorm")} | {
    "model.embed_tokens": "transformer.tokens_embed",
    "model.embed_positions": "transformer.positions_embed",
    "post_attention_layernorm": "ln_1",
    "post_feedforward_layernorm": "ln_2",
}
GPTJ_NAMES = {
    "model.embed_tokens": "transformer.wte",
    "model.layers": "transformer.h",
    "model.norm": "transformer.ln_f",
    "input_layernorm": "ln_1",
    "self_attn.q_proj": "attn.q_proj",
    "self_attn.k_proj": "attn.k_proj",
    "self_attn.v_proj": "attn.v_proj",
    "self_attn.o_proj": "attn.out_proj",
    "mlp.up_proj": "mlp.fc_in",
    "mlp.down_proj": "mlp.fc_out",
}
GPT_NEO_NAMES = GPT2_NAMES | {
    "self_attn.q_proj": "attn.attention.q_proj",
    "self_attn.k_proj": "attn.attention.k_proj",
    "self_attn.v_proj": "attn.attention.v_proj",
    "self_attn.o_proj": "attn.attention.out_proj",
}
CONV1D = (conv1d_qkv(), conv1d("self_attn.o_proj"), conv1d("mlp.up_proj"), conv1d("mlp.down_proj"))
PHI_NORMS = {
    "model.norm": "model.final_layernorm",
    "self_attn.q_norm": "self_attn.q_layernorm",
    "self_attn.k_norm": "self_attn.k_layernorm",
}
NO_CROSS_ATTENTION = {"add_cross_attention": "there is no encoder to attend to; set it to false"}
ROUNDING_ONLY = ("reorder_and_upcast_attn", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32")

GPT_FAMILIES = (
    Family(
        "gpt2",
        fixed=GPT | LEARNED | ALL_BIASES,
        fields=GPT2_FIELDS,
        rope="none",
        read=settings.read_gpt2,
        write=settings.write_gpt2,
        names=GPT2_NAMES,
        packings=CONV1D,
        inert=ROUNDING_ONLY,
        reasons=NO_CROSS_ATTENTION
        | {"scale_attn_by_inverse_layer_idx": "all layers scale their scores alike; set it to false"},
    ),
    Family(
        "openai-gpt",
        fixed=GPT | LEARNED | ALL_BIASES | {"norm_order": "post"},
        fields={ours: theirs for ours, theirs in GPT2_FIELDS.items() if ours != "hidden_act"},
        rope="none",
        read=settings.read_gpt1,
        write=settings.write_gpt1,
        names=GPT1_NAMES,
        packings=CONV1D,
        inert=("afn",),
    ),
    Family(
        "gpt_bigcode",
        fixed=GPT | LEARNED | ALL_BIASES,
        fields=GPT2_FIELDS,
        rope="none",
        read=settings.read_gpt_bigcode,
        write=settings.write_gpt_bigcode,
        names=GPT2_NAMES,
        packings=(grouped_qkv(),),
        inert=ROUNDING_ONLY,
        reasons=NO_CROSS_ATTENTION,
    ),
    Family(
        "gpt_neo",
        fixed=GPT
        | LEARNED
        | {"attention_bias": False, "attention_out_bias": True, "mlp_bias": True, "attention_multiplier": 1.0},
        fields=same("vocab_size", "hidden_size", "max_position_embeddings", "tie_word_embeddings", "attention_dropout")
        | {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads", "norm_eps": "layer_norm_epsilon"}
        | {"hidden_act": "activation_function", "residual_dropout": "resid_dropout"}
        | {"embedding_dropout": "embed_dropout"}
        | same("initializer_range"),
        rope="none",
        read=settings.read_gpt_neo,
        write=settings.write_gpt_neo,
        names=GPT_NEO_NAMES,
        inert=("attention_types", "window_size"),
    ),
    Family(
        "gptj",
        fixed=GPT | {"mlp_bias": True, "lm_head_bias": True, "parallel_block": True, "rope_interleaved": True},
        fields=GPT2_FIELDS,
        rope="none",
        read=settings.read_gptj,
        write=settings.write_gptj,
        names=GPTJ_NAMES,
    ),
    Family(
        "codegen",
        fixed=GPT | {"mlp_bias": True, "lm_head_bias": True, "parallel_block": True, "rope_interleaved": True},
        fields=GPT2_FIELDS,
        rope="none",
        read=settings.read_codegen,
        write=settings.write_gptj,
        names=GPTJ_NAMES | {"self_attn.qkv_proj": "attn.qkv_proj"},
        packings=(blocked_qvk(),),
        inert=("n_ctx",),
    ),
    Family(
        "gpt_neox",
        fixed=GPT | {"mlp_bias": True, "parallel_shared_norm": False},
        fields=MULTI_HEAD
        | LAYER_NORM_EPS
        | same("attention_bias")
        | {"parallel_block": "use_parallel_residual"}
        | {"residual_dropout": "hidden_dropout", "embedding_dropout": "hidden_dropout"},
        rope="partial",
        names=NEOX_MODULES
        | {
            "model.embed_tokens": "gpt_neox.embed_in",
            "model.layers": "gpt_neox.layers",
            "model.norm": "gpt_neox.final_layer_norm",
            "lm_head": "embed_out",
        },
        packings=(grouped_qkv(),),
    ),
    Family(
        "falcon",
        fixed=GPT,
        fields=same("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
        | same("tie_word_embeddings", "attention_dropout", "initializer_range")
        | {"intermediate_size": "ffn_hidden_size", "hidden_act": "activation", "norm_eps": "layer_norm_epsilon"}
        | {"residual_dropout": "hidden_dropout"},
        read=settings.read_falcon,
        write=settings.write_falcon,
        names=settings.names_falcon,
        packings=(grouped_qkv(),),
        inert=("multi_query", "num_kv_heads", "new_decoder_architecture", "num_ln_in_parallel_attn"),
        reasons={"alibi": "ALiBi positions are not implemented"},
    ),
    Family(
        "starcoder2",
        fixed=GPT,
        fields=SIZES | {"norm_eps": "norm_epsilon"} | same("residual_dropout", "embedding_dropout"),
        head_dim="optional",
        read=settings.read_starcoder2,
        write=settings.write_starcoder2,
        names={"mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj"},
    ),
    Family(
        "phi",
        fixed=GPT | ALL_BIASES | {"lm_head_bias": True, "parallel_block": True},
        fields=SIZES | LAYER_NORM_EPS | {"residual_dropout": "resid_pdrop", "embedding_dropout": "embd_pdrop"},
        rope="partial",
        read=settings.read_qk_layernorm,
        write=settings.write_qk_layernorm,
        names=PHI_NORMS | {"self_attn.o_proj": "self_attn.dense", "mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2"},
    ),
    Family(
        "persimmon",
        fixed=GPT | ALL_BIASES,
        fields=MULTI_HEAD | LAYER_NORM_EPS | {"residual_dropout": "hidden_dropout"},
        rope="partial",
        read=settings.read_qk_layernorm,
        write=settings.write_qk_layernorm,
        names=PHI_NORMS | {name: path.replace("attention.", "self_attn.") for name, path in NEOX_MODULES.items()},
        packings=(grouped_qkv(),),
    ),
    Family(
        "opt",
        fixed=GPT | LEARNED | {"norm_eps": 1e-5},
        fields=same("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
        | same("tie_word_embeddings", "attention_dropout")
        | {"intermediate_size": "ffn_dim", "hidden_act": "activation_function"}
        | {"residual_dropout": "dropout", "initializer_range": "init_std"},
        rope="none",
        read=settings.read_opt,
        write=settings.write_opt,
        names=settings.names_opt,
        packings=(two_unused_rows(),),
        reasons={
            "word_embed_proj_dim": "embeddings narrower than hidden_size would need a projection",
            "_remove_final_layer_norm": "the final norm follows from do_layer_norm_before; set it to false",
        },
    ),
    Family(
        "biogpt",
        fixed=GPT | LEARNED | ALL_BIASES | {"norm_eps": 1e-5},
        fields={name: theirs for name, theirs in MULTI_HEAD.items() if name != "attention_dropout"}
        | {"attention_dropout": "attention_probs_dropout_prob"}
        | {"residual_dropout": "hidden_dropout_prob", "embedding_dropout": "hidden_dropout_prob"},
        rope="none",
        read=settings.read_biogpt,
        write=settings.write_biogpt,
        names=FC_MODULES
        | {
            "model.embed_tokens": "biogpt.embed_tokens",
            "model.embed_positions": "biogpt.embed_positions",
            "model.layers": "biogpt.layers",
            "model.norm": "biogpt.layer_norm",
            "input_layernorm": "self_attn_layer_norm",
            "post_attention_layernorm": "final_layer_norm",
            "lm_head": "output_projection",
        },
        packings=(two_unused_rows(),),
        inert=("layer_norm_eps",),  # its norms are built with 1e-5 whatever this says
    ),
)
