"""Causal self-attention.

    head_h = softmax(scale * q_h k_g^T + mask) v_g,   output = [head_1; ...; head_H] W_o

Vaswani et al. 2017, arXiv:1706.03762. Query head h reads key and value head g = h // (H / K): K = H is multi-head,
K = 1 multi-query (Shazeer 2019, arXiv:1911.02150), anything between grouped-query (Ainslie et al. 2023, 2305.13245).
The kernel (eager, sdpa, flash, flex, a serving engine's own) is looked up by transformers' attention interface.

Legend: B batch, T positions, S positions with the cached ones, D model, H heads, K key and value heads, C head size.
"""

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .caches import update
from .norms import build_qk_norm
from .positions import apply_rotary, rotate_half_split, rotate_interleaved


def eager_attention_forward(module, query, key, value, attention_mask, scaling: float, dropout: float = 0.0, **kwargs):
    """The definition, for query (B, H, T, C) and key and value (B, K, S, C): (B, T, H, C) and weights (B, H, T, S)."""
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)  # (B, H, S, C)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = query @ key.transpose(2, 3) * scaling  # (B, H, T, S)
    if attention_mask is not None:
        scores = scores + attention_mask  # (B or 1, 1, T, S)
    weights = scores.softmax(dim=-1, dtype=torch.promote_types(query.dtype, torch.float32)).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class RhapsodeAttention(nn.Module):
    def __init__(self, config, layer_idx: int):
        super().__init__()
        D, H, K, C = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.config, self.layer_idx, self.is_causal = config, layer_idx, True
        self.head_dim, self.num_key_value_groups = C, H // K
        self.scaling = C**-0.5 if config.attention_multiplier is None else config.attention_multiplier
        self.attention_dropout = config.attention_dropout
        is_sliding = config.attention_types()[layer_idx] == "sliding_attention"
        self.sliding_window = config.sliding_window if is_sliding else None
        self.use_rope = config.uses_rope(layer_idx)
        self.rotate = rotate_interleaved if config.rope_interleaved else rotate_half_split
        self.q_proj = nn.Linear(D, H * C, bias=config.attention_bias)
        self.k_proj = nn.Linear(D, K * C, bias=config.attention_bias)
        self.v_proj = nn.Linear(D, K * C, bias=config.attention_bias)
        self.o_proj = nn.Linear(H * C, D, bias=config.attention_out_bias)
        self.q_norm, self.q_width = build_qk_norm(config, H)
        self.k_norm, self.k_width = build_qk_norm(config, K)
        self.clip = nn.Identity() if config.clip_qkv is None else nn.Hardtanh(-config.clip_qkv, config.clip_qkv)

    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, past_key_values=None, **kwargs):
        """(B, T, D) -> (B, T, D) and, where the kernel has them, the weights; cos and sin are (B, T, R/2)."""
        shape = hidden_states.shape[:-1]
        q, k, v = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        q, k, v = self.clip(q), self.clip(k), self.clip(v)
        q, k = self.q_norm(q.view(*shape, -1, self.q_width)), self.k_norm(k.view(*shape, -1, self.k_width))
        q = q.view(*shape, -1, self.head_dim).transpose(1, 2)  # (B, H, T, C)
        k = k.view(*shape, -1, self.head_dim).transpose(1, 2)  # (B, K, T, C)
        v = v.view(*shape, -1, self.head_dim).transpose(1, 2)  # (B, K, T, C)
        if self.use_rope:
            cos, sin = (table.unsqueeze(1) for table in position_embeddings)  # (B, 1, T, R/2)
            q, k = apply_rotary(q, cos, sin, self.rotate), apply_rotary(k, cos, sin, self.rotate)
        if past_key_values is not None:
            k, v = update(past_key_values, k, v, self.layer_idx, kwargs)  # (B, K, S, C)
        kernel = self.config._attn_implementation
        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface(kernel, eager_attention_forward)
        dropout, window = self.attention_dropout if self.training else 0.0, self.sliding_window
        attn_output, attn_weights = attention_interface(
            self, q, k, v, attention_mask, dropout=dropout, scaling=self.scaling, sliding_window=window, **kwargs
        )  # (B, T, H, C), (B, H, T, S)
        return self.o_proj(attn_output.reshape(*shape, -1).contiguous()), attn_weights
