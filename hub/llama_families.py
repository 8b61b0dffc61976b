"""The families around Llama: rotary positions, mostly RMSNorm, gated feed-forward layers and our own tensor names."""

from . import llama_settings as settings
from .family import Family, same
from .packing import around_zero, gate_and_up, one_module_a_head, stacked_qkv

SIZES = same(
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "max_position_embeddings", "hidden_act", "tie_word_embeddings"),
    *("attention_dropout", "initializer_range"),
)
LLAMA = SIZES | {"norm_eps": "rms_norm_eps"}
BIASES = same("attention_bias", "mlp_bias")
LAYER_NORM = {"norm_type": "layer_norm", "norm_bias": True}
MULTIPLIERS = same("embedding_multiplier", "residual_multiplier", "attention_multiplier")
NO_SOFTCAP = (
    "attention kernels without it are used here; attn_logit_softcapping=null in config.json switches it off, "
    "which changes the logits"
)
BIDIRECTIONAL = "Rhapsode's attention is causal; set use_bidirectional_attention to false"
GEMMA_FIELDS = LLAMA | same("attention_bias")
GEMMA2_FIELDS = GEMMA_FIELDS | same("final_logit_softcapping") | {"hidden_act": "hidden_activation"}
GEMMA2 = {
    "fields": GEMMA2_FIELDS,
    "read": settings.read_gemma2,
    "write": settings.write_gemma2,
    "inert": settings.WINDOWS,
    "head_dim": "field",
    "reasons": {"attn_logit_softcapping": NO_SOFTCAP, "use_bidirectional_attention": BIDIRECTIONAL},
}
PRE_NORMS = ("input_layernorm", "post_attention_layernorm", "model.norm")
SANDWICH_NORMS = (*PRE_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")
GLM4_NAMES = {
    "post_attention_layernorm": "post_self_attn_layernorm",
    "pre_feedforward_layernorm": "post_attention_layernorm",
    "post_feedforward_layernorm": "post_mlp_layernorm",
}
COHERE = {"norm_type": "layer_norm", "parallel_block": True, "rope_interleaved": True}
COHERE_FIELDS = SIZES | same("attention_bias", "logit_scale") | {"norm_eps": "layer_norm_eps"}

LLAMA_FAMILIES = (
    Family("llama", fields=LLAMA | BIASES, head_dim="field"),
    Family("internlm3", fields=LLAMA | BIASES, head_dim="field"),
    Family("iquestcoder", fields=LLAMA | BIASES, head_dim="field"),
    Family("mistral", fields=LLAMA, head_dim="field", **settings.ONE_WINDOW),
    Family(
        "ministral",
        fields=LLAMA,
        head_dim="field",
        read=settings.read_windows,
        write=settings.write_windows,
        inert=settings.WINDOWS,
    ),
    Family(
        "qwen2",
        fixed={"attention_bias": True, "attention_out_bias": False},
        fields=LLAMA,
        head_dim="optional",
        **settings.SWITCHED_WINDOWS,
    ),
    Family(
        "qwen3",
        fixed={"qk_norm": "head"},
        fields=LLAMA | same("attention_bias"),
        head_dim="field",
        **settings.SWITCHED_WINDOWS,
    ),
    Family(
        "olmo",
        fixed={"norm_type": "layer_norm", "norm_affine": False, "norm_eps": 1e-5},
        fields=SIZES | same("attention_bias", "clip_qkv"),
        head_dim="optional",
    ),
    Family(
        "olmo2",
        fixed={"norm_order": "output", "qk_norm": "full"},
        fields=LLAMA | same("attention_bias"),
        head_dim="optional",
    ),
    Family(
        "olmo3",
        fixed={"norm_order": "output", "qk_norm": "full"},
        fields=LLAMA | same("attention_bias"),
        head_dim="optional",
        rope="none",
        read=settings.read_olmo3,
        write=settings.write_olmo3,
        inert=(*settings.WINDOWS, "rope_parameters"),
    ),
    Family(
        "smollm3",
        fields=LLAMA | BIASES,
        head_dim="optional",
        read=settings.read_smollm3,
        write=settings.write_smollm3,
        inert=(*settings.WINDOWS, "use_sliding_window", "no_rope_layer_interval"),
    ),
    Family("seed_oss", fields=LLAMA | BIASES | same("attention_out_bias", "residual_dropout"), head_dim="field"),
    Family(
        "cwm",
        fields=LLAMA | same("mlp_bias"),
        head_dim="field",
        read=settings.read_windows,
        write=settings.write_windows,
        inert=settings.WINDOWS,
    ),
    Family("arcee", fixed={"mlp_gated": False}, fields=LLAMA | BIASES, head_dim="field"),
    Family(
        "helium",
        fixed={"rope_interleaved": True, "attention_out_bias": False},
        fields=LLAMA | BIASES,
        write=settings.write_helium,
        reasons={"head_dim": "its output projection is square, so head_dim must be hidden_size / num_attention_heads"},
    ),
    Family(
        "ernie4_5",
        fixed={"rope_interleaved": True},
        fields={ours: theirs for ours, theirs in LLAMA.items() if ours != "attention_dropout"},
        head_dim="field",
        read=settings.read_ernie,
        write=settings.write_ernie,
    ),
    Family(
        "granite",
        fields=LLAMA | BIASES | MULTIPLIERS,
        head_dim="optional",
        read=settings.read_granite,
        write=settings.write_granite,
    ),
    Family(
        "hyperclovax",
        fields=LLAMA | BIASES | MULTIPLIERS | {"logit_scale": "logits_scaling"},
        head_dim="field",
        read=settings.read_hyperclovax,
        write=settings.write_hyperclovax,
        names=settings.names_hyperclovax,
    ),
    Family(
        "cohere",
        fixed=COHERE,
        fields=COHERE_FIELDS,
        head_dim="optional",
        read=settings.read_cohere,
        write=settings.write_cohere,
    ),
    Family(
        "cohere2",
        fixed=COHERE,
        fields=COHERE_FIELDS,
        read=settings.read_cohere2,
        write=settings.write_windows,
        inert=settings.WINDOWS,
    ),
    Family(
        "stablelm",
        fixed=LAYER_NORM | {"attention_out_bias": False},
        fields=SIZES
        | {"norm_eps": "layer_norm_eps", "parallel_block": "use_parallel_residual", "attention_bias": "use_qkv_bias"}
        | {"residual_dropout": "hidden_dropout"},
        rope="partial",
        read=settings.read_stablelm,
        write=settings.write_stablelm,
        names={"self_attn.q_norm": "self_attn.q_layernorm", "self_attn.k_norm": "self_attn.k_layernorm"},
        packings=(one_module_a_head("self_attn.q_norm"), one_module_a_head("self_attn.k_norm")),
    ),
    Family(
        "exaone4",
        fixed={"norm_order": "output", "qk_norm": "head"},
        fields=LLAMA,
        head_dim="optional",
        read=settings.read_exaone4,
        write=settings.write_exaone4,
        inert=(*settings.WINDOWS, "sliding_window_pattern"),
    ),
    Family(
        "nemotron",
        fixed=LAYER_NORM | {"mlp_gated": False},
        fields=SIZES | BIASES | {"norm_eps": "norm_eps"},
        rope="partial",
        head_dim="field",
        packings=tuple(map(around_zero, PRE_NORMS)),
    ),
    Family(
        "jais2",
        fixed=LAYER_NORM | {"mlp_gated": False},
        fields=SIZES | BIASES | {"norm_eps": "layer_norm_eps"},
        head_dim="field",
    ),
    Family(
        "gemma",
        fields=GEMMA_FIELDS,
        head_dim="field",
        read=settings.read_gemma,
        packings=tuple(map(around_zero, PRE_NORMS)),
        reasons={"use_bidirectional_attention": BIDIRECTIONAL},
    ),
    Family("gemma2", fixed={"norm_order": "sandwich"}, packings=tuple(map(around_zero, SANDWICH_NORMS)), **GEMMA2),
    Family(
        "vaultgemma",
        names={"post_attention_layernorm": "pre_feedforward_layernorm"},
        packings=tuple(map(around_zero, PRE_NORMS)),
        **GEMMA2,
    ),
    Family(
        "glm",
        fixed={"rope_interleaved": True, "attention_out_bias": False},
        fields=LLAMA | same("attention_bias"),
        rope="partial",
        head_dim="field",
        packings=(gate_and_up(),),
    ),
    Family(
        "glm4",
        fixed={"rope_interleaved": True, "attention_out_bias": False, "norm_order": "sandwich"},
        fields=LLAMA | same("attention_bias"),
        rope="partial",
        head_dim="field",
        names=GLM4_NAMES,
        packings=(gate_and_up(),),
    ),
    Family(
        "phi3",
        fields=LLAMA | {"residual_dropout": "resid_pdrop", "embedding_dropout": "embd_pdrop"},
        rope="partial",
        head_dim="optional",
        read=settings.read_phi3,
        write=settings.write_phi3,
        packings=(stacked_qkv(), gate_and_up()),
        inert=("original_max_position_embeddings",),
    ),
)
