"""GGUF, the file of llama.cpp: metadata, vocabulary and tensors in one.

llama.cpp has a network of its own for each family. A row of `ARCHITECTURES` says which of ours it computes; that the
family has the model's switches is checked as for `save_foreign`, so that no setting is lost. Names of tensors come from
the `gguf` package. Two things change the numbers' order:

    llama, olmo      rotate neighbouring pairs: row n and row n + C/2 of each head become rows 2n and 2n + 1
    falcon, gpt2     one matrix for queries, keys and values: [q; k; v]

Legend: D model, C head size.
"""

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ..modeling import RhapsodeForCausalLM
from .families import family_named
from .family import to_family
from .gguf_vocabulary import add_vocabulary

SILU, GELU, GELU_TANH = ("silu", "swish"), ("gelu",), ("gelu_new", "gelu_pytorch_tanh")
FORMATS = {
    torch.float32: (gguf.LlamaFileType.ALL_F32, gguf.GGMLQuantizationType.F32),
    torch.float16: (gguf.LlamaFileType.MOSTLY_F16, gguf.GGMLQuantizationType.F16),
    torch.bfloat16: (gguf.LlamaFileType.MOSTLY_BF16, gguf.GGMLQuantizationType.BF16),
}
FUSED = {"self_attn.q_proj": "blk.{}.attn_qkv", "self_attn.k_proj": None, "self_attn.v_proj": None}


@dataclass(frozen=True)
class Architecture:
    """What llama.cpp computes under a family's name, beyond what the family's own configuration class checks.

    acts       the activations that its code has; it reads none from the file
    permuted   its RoPE rotates neighbouring pairs, ours the halves of a head
    fused      queries, keys and values are one matrix
    square     C x heads is D
    untied     the head is a tensor of its own, also where it is the embedding
    requires   our fields that can have one value only
    """

    acts: tuple[str, ...] = SILU
    permuted: bool = False
    fused: bool = False
    square: bool = True
    untied: bool = False
    requires: dict = field(default_factory=dict)


NO_BIASES = {"attention_bias": False, "attention_out_bias": False, "mlp_bias": False}
ARCHITECTURES = {  # in the order in which they are tried
    "llama": Architecture(permuted=True, square=False),
    "qwen3": Architecture(square=False, requires=NO_BIASES),
    "qwen2": Architecture(),
    "olmo": Architecture(permuted=True, requires=NO_BIASES),
    "olmo2": Architecture(untied=True, requires=NO_BIASES),
    "stablelm": Architecture(untied=True, requires={"qk_norm": "none"}),
    "falcon": Architecture(acts=GELU, fused=True, requires=NO_BIASES),
    "gpt2": Architecture(acts=GELU_TANH, fused=True),
}


def save_gguf(model, path: str | os.PathLike, tokenizer, texts: Iterable[str], family: str | None = None) -> dict:
    """Write a `RhapsodeForCausalLM` with its tokenizer as one GGUF file, in the number format of its weights.

    Args:
        path: the file; it is complete or not there.
        tokenizer: a byte-level BPE tokenizer, which is the kind that llama.cpp shares with us.
        texts: what the model reads; among llama.cpp's ways to cut text into words, the one is taken that gives most of
            our tokens on them.
        family: a key of `ARCHITECTURES`; the first that can express the model where `None`.

    Returns:
        The `family`, the `pre_tokenizer` that was chosen, and the share of `same_tokens` that it gives on `texts`.

    Raises:
        ValueError: for a network or a tokenizer that llama.cpp does not have; the message names what is in the way.
    """
    if type(model).__name__ != RhapsodeForCausalLM.__name__:
        raise ValueError(f"{type(model).__name__} cannot be written to GGUF, a RhapsodeForCausalLM can")
    family = choose_architecture(model.config) if family is None else family
    check_architecture(model.config, family)
    if model.dtype not in FORMATS:
        raise ValueError(f"dtype={model.dtype} is not written to GGUF; use float32, bfloat16 or float16")
    path = Path(path)
    temporary = path.with_name(f".unfinished-{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(temporary, family)
    try:
        writer.add_name(path.stem)
        _add_hyperparameters(writer, model, family)
        chosen = add_vocabulary(writer, tokenizer, model.config.vocab_size, texts)
        _write(writer, model, family)
        temporary.replace(path)
    finally:
        writer.close()
        temporary.unlink(missing_ok=True)
    return {"family": family} | chosen


def choose_architecture(config) -> str:
    """The first row that can express the network."""
    reasons = {}
    for family in ARCHITECTURES:
        try:
            check_architecture(config, family)
            return family
        except ValueError as error:
            reasons[family] = str(error)
    nearest = min(reasons.values(), key=len)  # the one that objects to least
    raise ValueError(f"none of llama.cpp's {', '.join(ARCHITECTURES)} is this network; the nearest: {nearest}")


def check_architecture(config, family: str) -> None:
    """Refuse what llama.cpp would compute differently."""
    if family not in ARCHITECTURES:
        raise ValueError(
            f"family={family!r} is not written to GGUF here; use one of {', '.join(ARCHITECTURES)}, or write the "
            f"family's own checkpoint (rhapsode convert --to DIR --to_family {family}) and run llama.cpp's "
            "python convert_hf_to_gguf.py DIR"
        )
    row = ARCHITECTURES[family]
    to_family(family_named(family), config)
    rope = getattr(config, "rope_parameters", None) or {}
    wanted = dict(row.requires)
    if row.square:
        wanted["head_dim"] = config.hidden_size // config.num_attention_heads
    wrong = [f"{k}={getattr(config, k)!r}, where it has {v!r}" for k, v in wanted.items() if getattr(config, k) != v]
    if config.hidden_act not in row.acts:
        wrong.append(f"hidden_act={config.hidden_act!r}, where it has {row.acts[0]!r}")
    if set(config.attention_types()) != {"full_attention"}:
        wrong.append(f"sliding_window={config.sliding_window}, where it has none")
    if rope.get("rope_type", "default") not in ("default", "linear", "llama3"):
        wrong.append(f"rope_type={rope['rope_type']!r}, where default, linear and llama3 are written")
    if wrong:
        raise ValueError(f"llama.cpp's {family!r} cannot express {'; '.join(wrong)}")


def _add_hyperparameters(writer, model, family: str) -> None:
    config, rope = model.config, getattr(model.config, "rope_parameters", None) or {}
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_file_type(FORMATS[model.dtype][0])
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    norm_eps = writer.add_layer_norm_rms_eps if config.norm_type == "rms_norm" else writer.add_layer_norm_eps
    norm_eps(config.norm_eps)
    if config.clip_qkv is not None:
        writer.add_clamp_kqv(config.clip_qkv)
    if family == "stablelm":
        writer.add_parallel_residual(config.parallel_block)
    if rope:
        writer.add_rope_dimension_count(int(config.head_dim * rope.get("partial_rotary_factor", 1.0)))
        writer.add_rope_freq_base(rope["rope_theta"])
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def _write(writer, model, family: str) -> None:
    """Header, then tensor by tensor: at no time is there a second copy of the weights."""
    for name, tensor in gguf_tensors(model, family, meta=True):
        kind = _kind(tensor, model.dtype)
        size = math.prod(tensor.shape) * (4 if kind == gguf.GGMLQuantizationType.F32 else 2)
        number = np.dtype(np.float32 if kind == gguf.GGMLQuantizationType.F32 else np.float16)
        writer.add_tensor_info(name, tuple(tensor.shape), number, size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, tensor in gguf_tensors(model, family):
        writer.write_tensor_data(_array(tensor, _kind(tensor, model.dtype)))


def _kind(tensor: torch.Tensor, dtype: torch.dtype):
    """Vectors stay in float32, as llama.cpp's kernels want them."""
    return FORMATS[dtype if tensor.dim() > 1 else torch.float32][1]


def _array(tensor: torch.Tensor, kind) -> np.ndarray:
    tensor = tensor.detach().cpu().contiguous()
    if kind == gguf.GGMLQuantizationType.F32:
        return tensor.float().numpy()
    return tensor.view(torch.int16).numpy()  # the bits; NumPy has no bfloat16


def gguf_tensors(model, family: str, meta: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
    """Our tensors under llama.cpp's names, in its order of rows; with `meta` their shapes alone."""
    row, config, tensors = ARCHITECTURES[family], model.config, model.state_dict()
    if meta:
        tensors = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    if model.lm_head.weight is model.get_input_embeddings().weight and not row.untied:
        tensors.pop("lm_head.weight")
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, tensor in tensors.items():
        layer, module, leaf = _parts(name)
        if row.fused and module in FUSED:
            if FUSED[module]:
                parts = [tensors[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
                yield f"{FUSED[module].format(layer)}.{leaf}", torch.cat(parts)
            continue
        if row.permuted and module in ("self_attn.q_proj", "self_attn.k_proj"):
            tensor = neighbouring_pairs(tensor, config.head_dim)
        plain = name.removesuffix(f".{leaf}")
        found = "position_embd" if plain == "model.embed_positions" else names.get_name(plain)
        assert found, f"llama.cpp's {family!r} has no tensor for {name}"
        yield f"{found}.{leaf}", tensor
    if rope_factors := _llama3_factors(config):
        yield "rope_freqs.weight", torch.tensor(rope_factors, device="meta" if meta else "cpu")


def _parts(name: str) -> tuple[str, str, str]:
    """`model.layers.3.mlp.up_proj.weight` -> (`3`, `mlp.up_proj`, `weight`)."""
    path, _, leaf = name.rpartition(".")
    prefix, layers, rest = path.partition("model.layers.")
    layer, _, module = rest.partition(".") if layers else ("", "", prefix)
    return layer, module, leaf


def neighbouring_pairs(tensor: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows n and n + C/2 of each head become its rows 2n and 2n + 1; weights (heads x C, D) and biases (heads x C)."""
    halves = tensor.unflatten(0, (-1, 2, head_dim // 2))  # (heads, 2, C/2, ...)
    return halves.transpose(1, 2).flatten(0, 2)


def _llama3_factors(config) -> list[float] | None:
    """By what llama.cpp divides each frequency, for the scaling of Llama 3."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "llama3":
        return None
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    return (rope["rope_theta"] ** -exponent / scaled).tolist()
