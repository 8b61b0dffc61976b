"""The named designs: each a dictionary of `RhapsodeConfig` fields, as a difference from our own best decoder.

Sizes follow the released checkpoints, and so do the exact parameter counts. The table of the OLMo paper (Groeneveld et
al. 2024, arXiv:2402.00838, table 2) gives LLaMA2-7B grouped-query attention and Falcon-7B an untied head; the released
weights have 32 key and value heads, and a tied head. `batch_instances` is the batch that the design was trained with, in
sequences of its context length.
"""

from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Preset:
    fields: dict
    batch_instances: int
    source: str


PLAIN = {"num_key_value_heads": None, "qk_norm": "none", "tie_word_embeddings": False, "norm_eps": 1e-5}
GPT = PLAIN | {
    "norm_type": "layer_norm",
    "norm_bias": True,
    "position_embedding_type": "learned",
    "attention_bias": True,
    "mlp_gated": False,
    "mlp_bias": True,
    "tie_word_embeddings": True,
}


def _sizes(vocab, hidden, layers, heads, kv_heads, ffn, context) -> dict:
    return {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
        "max_position_embeddings": context,
    }


def _gpt2(hidden, layers, heads) -> Preset:
    fields = GPT | {"hidden_act": "gelu_new"} | _sizes(50257, hidden, layers, heads, heads, 4 * hidden, 1024)
    dropouts = {"attention_dropout": 0.1, "residual_dropout": 0.1, "embedding_dropout": 0.1}
    ends = {"bos_token_id": 50256, "eos_token_id": 50256}
    return Preset(fields | dropouts | ends, 512, "Radford et al. 2019, Language Models are Unsupervised Multitask Learners")


def _rhapsode(vocab, hidden, layers, heads, kv_heads, ffn, context, batch) -> Preset:
    return Preset(_sizes(vocab, hidden, layers, heads, kv_heads, ffn, context), batch, "this project")


PRESETS = {
    "olmo-7b": Preset(
        PLAIN | {"norm_type": "layer_norm", "norm_affine": False} | _sizes(50304, 4096, 32, 32, 32, 11008, 2048),
        2160,
        "Groeneveld et al. 2024, arXiv:2402.00838",
    ),
    "llama2-7b": Preset(
        PLAIN | _sizes(32000, 4096, 32, 32, 32, 11008, 4096), 1024, "Touvron et al. 2023, arXiv:2307.09288"
    ),
    "openlm-7b": Preset(
        PLAIN | {"norm_type": "layer_norm", "norm_bias": True} | _sizes(50432, 4096, 32, 32, 32, 11008, 2048),
        2048,
        "Gururangan et al. 2023, github.com/mlfoundations/open_lm",
    ),
    "falcon-7b": Preset(
        PLAIN
        | {"norm_type": "layer_norm", "norm_bias": True, "parallel_block": True, "mlp_gated": False}
        | {"hidden_act": "gelu", "tie_word_embeddings": True, "bos_token_id": 11, "eos_token_id": 11}
        | _sizes(65024, 4544, 32, 71, 1, 18176, 2048),
        2304,
        "Almazrouei et al. 2023, arXiv:2311.16867",
    ),
    "palm-8b": Preset(
        PLAIN
        | {"norm_type": "layer_norm", "parallel_block": True, "head_dim": 256, "tie_word_embeddings": True}
        | _sizes(256000, 4096, 32, 16, 1, 16384, 2048),
        512,
        "Chowdhery et al. 2022, arXiv:2204.02311",
    ),
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
    "gpt1": Preset(
        GPT
        | {"norm_order": "post", "hidden_act": "gelu_new"}
        | {"attention_dropout": 0.1, "residual_dropout": 0.1, "embedding_dropout": 0.1}
        | {"bos_token_id": None, "eos_token_id": None}
        | _sizes(40478, 768, 12, 12, 12, 3072, 512),
        64,
        "Radford et al. 2018, Improving Language Understanding by Generative Pre-Training",
    ),
    "vaswani-base": Preset(
        GPT
        | {"norm_order": "post", "hidden_act": "relu", "position_embedding_type": "sinusoidal"}
        | {"embedding_multiplier": 512**0.5, "residual_dropout": 0.1, "embedding_dropout": 0.1}
        | _sizes(37000, 512, 6, 8, 8, 2048, 512),
        49,  # about 25,000 tokens
        "Vaswani et al. 2017, arXiv:1706.03762 (the decoder stack without cross-attention)",
    ),
    "rhapsode-10m": _rhapsode(8192, 320, 7, 5, 1, 896, 1024, 64),
    "rhapsode-50m": _rhapsode(16384, 512, 14, 8, 2, 1408, 2048, 128),
    "rhapsode-125m": _rhapsode(32768, 768, 15, 12, 4, 2048, 2048, 256),
    "rhapsode-350m": _rhapsode(32768, 1024, 27, 16, 4, 2816, 2048, 256),
    "rhapsode-1b": _rhapsode(65536, 2048, 19, 16, 4, 5632, 4096, 512),
    "rhapsode-3b": _rhapsode(65536, 2816, 34, 22, 2, 7680, 4096, 512),
    "rhapsode-7b": _rhapsode(65536, 4096, 38, 32, 8, 11008, 4096, 1024),
}
TINY = "-tiny"


def presets() -> list[str]:
    """The names that `RhapsodeConfig.from_preset` takes; each has a `-tiny` twin with the same switches."""
    return [*PRESETS, *(name + TINY for name in PRESETS)]


def preset(name: str) -> Preset:
    """Raises `ValueError` naming the nearest preset where there is none of that name."""
    if name in PRESETS:
        return PRESETS[name]
    if name.removesuffix(TINY) in PRESETS:
        return _tiny(PRESETS[name.removesuffix(TINY)])
    nearest = get_close_matches(name, presets(), n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(PRESETS)}, each also with '{TINY}'"
    raise ValueError(f"preset={name!r} is unknown; {hint}")


def preset_fields(name: str) -> dict:
    return dict(preset(name).fields)


def _tiny(full: Preset) -> Preset:
    """The same switches at a size that trains on a CPU: 2 layers, 4 heads of 16, the shape of the heads kept."""
    f = full.fields
    heads, kv_heads = f["num_attention_heads"], f["num_key_value_heads"]
    small = {
        "vocab_size": 512,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4 if kv_heads == heads else 1 if kv_heads == 1 else 2,
        "intermediate_size": round(64 * f["intermediate_size"] / f["hidden_size"] / 16) * 16,
        "max_position_embeddings": 256,
    }
    if "head_dim" in f:
        small["head_dim"] = 16
    if "embedding_multiplier" in f:
        small["embedding_multiplier"] = 64**0.5
    ends = {key: 2 for key in ("bos_token_id", "eos_token_id") if f.get(key) is not None}
    return Preset(f | small | ends, 32, full.source)
