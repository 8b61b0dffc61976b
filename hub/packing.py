"""How other families pack their tensors, and how each packing is undone and done again.

    qkv_proj of Phi-3        [q; k; v] on the first axis
    query_key_value of NeoX  for each key and value head: its query heads, its key head, its value head
    gate_up_proj             [gate; up]
    Conv1D of GPT-2          the transposed matrix
    norm of Gemma            the distance of the scale from 1

A `Packing` names the modules on both sides and holds the two functions. `Unpack` runs one inside transformers'
weight-conversion machinery while shards are read; `save_foreign` calls `join` tensor by tensor.

Legend: D model, H query heads, K key and value heads, C head size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers.core_model_loading import ConversionOps

Tensors = list[torch.Tensor]


@dataclass(frozen=True)
class Packing:
    """`theirs`, one module or (with a `*`) a numbered list of modules, holds what `ours` hold, in this order.

    `split(tensors of theirs, config) -> tensors of ours` and `join` is its inverse; `config` is a `RhapsodeConfig`.
    Both are given weights and, where there are any, biases. Names are those inside a layer, or full for the rest;
    `theirs` is written after the row's names were translated, so it usually begins like our name.
    """

    theirs: str
    ours: tuple[str, ...]
    split: Callable[[Tensors, object], Tensors]
    join: Callable[[Tensors, object], Tensors]
    leaves: tuple[str, ...] = ("weight", "bias")
    rounds: bool = False  # `split` computes, so that a load in half precision rounds


class Unpack(ConversionOps):
    """A packing's `split` as an operation of transformers. It is never reversed: `save_foreign` joins by itself."""

    def __init__(self, packing: Packing):
        self.packing = packing

    def __deepcopy__(self, memo):  # transformers copies a converter for each tensor; nothing in here changes
        return self

    @torch.no_grad()
    def convert(self, input_dict, source_patterns, target_patterns, config=None, **kwargs):
        (tensors,) = input_dict.values()
        parts = self.packing.split(tensors if isinstance(tensors, list) else [tensors], config)
        return {name: part.contiguous() for name, part in zip(target_patterns, parts, strict=True)}


QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def _qkv_rows(config) -> list[int]:
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    return [q, kv, kv]


def _split_stacked(tensors: Tensors, config) -> Tensors:
    return list(tensors[0].split(_qkv_rows(config)))


def _concatenate(tensors: Tensors, config) -> Tensors:
    return [torch.cat(tensors)]


def stacked_qkv(theirs: str = "self_attn.qkv_proj") -> Packing:
    """((H + 2 K) C, D): all queries, all keys, all values."""
    return Packing(theirs, QKV, _split_stacked, _concatenate)


def _split_groups(tensors: Tensors, config) -> Tensors:
    H, K, C = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    rest = tensors[0].shape[1:]
    grouped = tensors[0].reshape(K, H // K + 2, C, *rest)
    return [part.reshape(-1, *rest) for part in grouped.split([H // K, 1, 1], dim=1)]


def _join_groups(tensors: Tensors, config) -> Tensors:
    K, C, rest = config.num_key_value_heads, config.head_dim, tensors[0].shape[1:]
    return [torch.cat([t.reshape(K, -1, C, *rest) for t in tensors], dim=1).reshape(-1, *rest)]


def grouped_qkv(theirs: str = "self_attn.qkv_proj") -> Packing:
    """(K (H/K + 2) C, D): for each key and value head its H/K query heads, then itself."""
    return Packing(theirs, QKV, _split_groups, _join_groups)


CODEGEN_BLOCKS = 4  # CodeGen was trained on 4 TPU cores, and its weights keep their order


def _split_blocks(tensors: Tensors, config) -> Tensors:
    rest = tensors[0].shape[1:]
    q, v, k = tensors[0].reshape(CODEGEN_BLOCKS, 3, -1, *rest).unbind(1)
    return [part.reshape(-1, *rest) for part in (q, k, v)]


def _join_blocks(tensors: Tensors, config) -> Tensors:
    rest = tensors[0].shape[1:]
    q, k, v = (t.reshape(CODEGEN_BLOCKS, -1, *rest) for t in tensors)
    return [torch.stack((q, v, k), dim=1).reshape(-1, *rest)]


def blocked_qvk(theirs: str = "self_attn.qkv_proj") -> Packing:
    """(4 * 3 * D/4, D): in each of four blocks a quarter of the queries, of the values and of the keys."""
    return Packing(theirs, QKV, _split_blocks, _join_blocks)


def _halves(tensors: Tensors, config) -> Tensors:
    return list(tensors[0].chunk(2))


def gate_and_up(theirs: str = "mlp.gate_up_proj") -> Packing:
    """(2 F, D): the gate, then what it multiplies."""
    return Packing(theirs, ("mlp.gate_proj", "mlp.up_proj"), _halves, _concatenate)


def _transpose(tensors: Tensors, config=None) -> Tensors:
    return [t.T if t.dim() == 2 else t for t in tensors]


def conv1d(module: str) -> Packing:
    """(in, out), as GPT-2's Conv1D keeps its matrix."""
    return Packing(module, (module,), _transpose, _transpose, leaves=("weight",))


def _split_conv1d(tensors: Tensors, config) -> Tensors:
    return _split_stacked(_transpose(tensors), config)


def _join_conv1d(tensors: Tensors, config) -> Tensors:
    return _transpose(_concatenate(tensors, config))


def conv1d_qkv(theirs: str = "self_attn.qkv_proj") -> Packing:
    """(D, 3 D): `stacked_qkv`, transposed."""
    return Packing(theirs, QKV, _split_conv1d, _join_conv1d)


def _plus_one(tensors: Tensors, config) -> Tensors:
    return [t + 1 for t in tensors]


def _minus_one(tensors: Tensors, config) -> Tensors:
    return [t - 1 for t in tensors]


def around_zero(norm: str) -> Packing:
    """A scale stored as its distance from 1. Adding the 1 rounds: in float32 by at most 2^-24 of the scale."""
    return Packing(norm, (norm,), _plus_one, _minus_one, leaves=("weight",), rounds=True)


def _skip_two(tensors: Tensors, config) -> Tensors:
    return [tensors[0][2:]]


def _prepend_two(tensors: Tensors, config) -> Tensors:
    return [torch.cat([tensors[0].new_zeros(2, tensors[0].shape[1]), tensors[0]])]


def two_unused_rows(module: str = "model.embed_positions") -> Packing:
    """fairseq's table of positions, which starts at row 2. The rows in front belong to padding and are written as 0."""
    return Packing(module, (module,), _skip_two, _prepend_two, leaves=("weight",))


def _stack(tensors: Tensors, config) -> Tensors:
    return [torch.stack(tensors)]


def _unstack(tensors: Tensors, config) -> Tensors:
    return list(tensors[0].unbind())


def one_module_a_head(norm: str) -> Packing:
    """A module `norms.N`, (C,), for each head, where we keep one matrix, (heads, C)."""
    return Packing(f"{norm}.norms.*", (norm,), _stack, _unstack, leaves=("weight",))
