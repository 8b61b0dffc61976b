"""Causal self-attention.

    head_h = softmax(scale * q_h k_g^T + mask) v_g,   output = [head_1; ...; head_H] W_o

Vaswani et al. 2017, arXiv:1706.03762. Query head h reads key and value head g = h // (H / K): K = H is multi-head,
K = 1 multi-query (Shazeer 2019, arXiv:1911.02150), anything between grouped-query (Ainslie et al. 2023, 2305.13245).

The kernel (eager, sdpa, flash, flex, a serving engine's own) is looked up by transformers' attention interface.

Legend: B batch, T positions, S positions with the cached ones, D model, H heads, K key and value heads, C head size.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .norms import build_qk_norm
from .positions import apply_rotary, rotate_half, rotate_pairs


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,  # (B, H, T, C)
    key: torch.Tensor,  # (B, K, S, C)
    value: torch.Tensor,  # (B, K, S, C)
    attention_mask: torch.Tensor | None,  # (B or 1, 1, T, S), added to the scores
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition, with the weights (B, H, T, S) as second result."""
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)  # (B, H, S, C)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = query @ key.transpose(2, 3) * scaling  # (B, H, T, S)
    if attention_mask is not None:
        scores = scores + attention_mask
    precise = torch.promote_types(query.dtype, torch.float32)
    weights = nn.functional.softmax(scores, dim=-1, dtype=precise).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights  # (B, T, H, C)


class RhapsodeAttention(nn.Module):
    def __init__(self, config, layer_idx: int):
        super().__init__()
        H, K, C = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.config, self.layer_idx, self.is_causal = config, layer_idx, True
        self.head_dim, self.num_key_value_groups = C, H // K
        self.scaling = C**-0.5 if config.attention_multiplier is None else config.attention_multiplier
        self.attention_dropout = config.attention_dropout
        is_sliding = config.attention_type(layer_idx) == "sliding_attention"
        self.sliding_window = config.sliding_window if is_sliding else None
        self.use_rope = config.uses_rope(layer_idx)
        self.rotate = rotate_pairs if config.rope_interleaved else rotate_half

        self.q_proj = nn.Linear(config.hidden_size, H * C, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, K * C, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, K * C, bias=config.attention_bias)
        self.o_proj = nn.Linear(H * C, config.hidden_size, bias=config.attention_out_bias)
        self.q_norm, self.k_norm = build_qk_norm(config, H), build_qk_norm(config, K)
        self.clip = nn.Identity() if config.clip_qkv is None else nn.Hardtanh(-config.clip_qkv, config.clip_qkv)

    def forward(
        self,
        hidden_states: torch.Tensor,  # (B, T, D)
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,  # cos and sin, (B, T, R) each
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        input_shape = hidden_states.shape[:-1]
        heads = (*input_shape, -1, self.head_dim)
        q, k, v = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        q, k, v = self.clip(q), self.clip(k), self.clip(v)
        q = self.q_norm(q.view(heads)).transpose(1, 2)  # (B, H, T, C)
        k = self.k_norm(k.view(heads)).transpose(1, 2)  # (B, K, T, C)
        v = v.view(heads).transpose(1, 2)  # (B, K, T, C)
        if self.use_rope:
            cos, sin = (table.unsqueeze(1) for table in position_embeddings)  # (B, 1, T, R)
            q, k = apply_rotary(q, cos, sin, self.rotate), apply_rotary(k, cos, sin, self.rotate)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)  # (B, K, S, C)

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attn_output, attn_weights = attention_interface(
            self,
            q,
            k,
            v,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        attn_output = attn_output.reshape(*input_shape, -1).contiguous()  # (B, T, H * C)
        return self.o_proj(attn_output), attn_weights
