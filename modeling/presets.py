"""The named designs: each a dictionary of `RhapsodeConfig` fields, as a difference from our own best decoder.

Sizes and parameter counts are those of the released checkpoints. Table 2 of the OLMo paper (Groeneveld et al. 2024,
arXiv:2402.00838) says grouped-query attention for LLaMA2-7B and an untied head for Falcon-7B; their weights do not.
"""

from dataclasses import dataclass

from .validation import check_choice


@dataclass(frozen=True)
class Preset:
    fields: dict
    batch_instances: int  # the batch that the design was trained with, in sequences of its context length
    source: str


LLAMA = {"qk_norm": "none", "tie_word_embeddings": False, "norm_eps": 1e-5}
OLMO = LLAMA | {"norm_type": "layer_norm", "norm_affine": False}
OPENLM = LLAMA | {"norm_type": "layer_norm", "norm_bias": True}
FALCON = OPENLM | {"parallel_block": True, "mlp_gated": False, "hidden_act": "gelu", "tie_word_embeddings": True}
FALCON |= {"bos_token_id": 11, "eos_token_id": 11}
PALM = LLAMA | {"norm_type": "layer_norm", "parallel_block": True, "head_dim": 256, "tie_word_embeddings": True}
GPT = OPENLM | {"position_embedding_type": "learned", "attention_bias": True, "mlp_gated": False, "mlp_bias": True}
GPT |= {"hidden_act": "gelu_new", "tie_word_embeddings": True, "residual_dropout": 0.1, "embedding_dropout": 0.1}
GPT2 = GPT | {"attention_dropout": 0.1, "bos_token_id": 50256, "eos_token_id": 50256}
GPT1 = GPT | {"attention_dropout": 0.1, "norm_order": "post", "bos_token_id": None, "eos_token_id": None}
VASWANI = GPT | {"position_embedding_type": "sinusoidal", "norm_order": "post", "hidden_act": "relu"}
VASWANI |= {"embedding_multiplier": 512**0.5}

SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
SIZES += ("intermediate_size", "max_position_embeddings")
PRESETS = {
    name: Preset(switches | dict(zip(SIZES, sizes, strict=True)), batch, source)
    for name, switches, sizes, batch, source in (
        ("olmo-7b", OLMO, (50304, 4096, 32, 32, 32, 11008, 2048), 2160, "Groeneveld et al. 2024, arXiv:2402.00838"),
        ("llama2-7b", LLAMA, (32000, 4096, 32, 32, 32, 11008, 4096), 1024, "Touvron et al. 2023, arXiv:2307.09288"),
        ("openlm-7b", OPENLM, (50432, 4096, 32, 32, 32, 11008, 2048), 2048, "Gururangan et al. 2023, open_lm"),
        ("falcon-7b", FALCON, (65024, 4544, 32, 71, 1, 18176, 2048), 2304, "Almazrouei et al. 2023, arXiv:2311.16867"),
        ("palm-8b", PALM, (256000, 4096, 32, 16, 1, 16384, 2048), 512, "Chowdhery et al. 2022, arXiv:2204.02311"),
        ("gpt2", GPT2, (50257, 768, 12, 12, 12, 3072, 1024), 512, "Radford et al. 2019, GPT-2"),
        ("gpt2-medium", GPT2, (50257, 1024, 24, 16, 16, 4096, 1024), 512, "Radford et al. 2019, GPT-2"),
        ("gpt2-large", GPT2, (50257, 1280, 36, 20, 20, 5120, 1024), 512, "Radford et al. 2019, GPT-2"),
        ("gpt2-xl", GPT2, (50257, 1600, 48, 25, 25, 6400, 1024), 512, "Radford et al. 2019, GPT-2"),
        (
            "gpt1",
            GPT1,
            (40478, 768, 12, 12, 12, 3072, 512),
            64,
            "Radford et al. 2018, GPT-1",
        ),
        # The decoder stack without cross-attention, in batches of about 25,000 tokens.
        ("vaswani-base", VASWANI, (37000, 512, 6, 8, 8, 2048, 512), 49, "Vaswani et al. 2017, arXiv:1706.03762"),
        ("rhapsode-10m", {}, (8192, 320, 7, 5, 1, 896, 1024), 64, "this project"),
        ("rhapsode-50m", {}, (16384, 512, 14, 8, 2, 1408, 2048), 128, "this project"),
        ("rhapsode-125m", {}, (32768, 768, 15, 12, 4, 2048, 2048), 256, "this project"),
        ("rhapsode-350m", {}, (32768, 1024, 27, 16, 4, 2816, 2048), 256, "this project"),
        ("rhapsode-1b", {}, (65536, 2048, 19, 16, 4, 5632, 4096), 512, "this project"),
        ("rhapsode-3b", {}, (65536, 2816, 34, 22, 2, 7680, 4096), 512, "this project"),
        ("rhapsode-7b", {}, (65536, 4096, 38, 32, 8, 11008, 4096), 1024, "this project"),
    )
}
TINY = "-tiny"


def presets() -> list[str]:
    """The names that `RhapsodeConfig.from_preset` takes; each has a `-tiny` twin with the same switches."""
    return [*PRESETS, *(name + TINY for name in PRESETS)]


def preset(name: str) -> Preset:
    """Raises `ValueError` naming the nearest preset where there is none of that name."""
    check_choice("preset", name, presets())
    return PRESETS[name] if name in PRESETS else _tiny(PRESETS[name.removesuffix(TINY)])


def _tiny(full: Preset) -> Preset:
    """The same switches at a size that trains on a CPU: 2 layers, 4 heads of 16, the shape of the heads kept."""
    f = full.fields
    heads, kv_heads = f["num_attention_heads"], f["num_key_value_heads"]
    kv_heads = 4 if kv_heads == heads else 1 if kv_heads == 1 else 2
    ffn = round(64 * f["intermediate_size"] / f["hidden_size"] / 16) * 16
    small = dict(zip(SIZES, (512, 64, 2, 4, kv_heads, ffn, 256), strict=True))
    small |= {key: value for key, value in {"head_dim": 16, "embedding_multiplier": 64**0.5}.items() if key in f}
    small |= {key: 2 for key in ("bos_token_id", "eos_token_id") if f.get(key) is not None}
    return Preset(f | small, 32, full.source)
