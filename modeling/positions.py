"""Where a token stands: rotary, sinusoidal or learned positions.

RoPE       (x_i, x_j) rotated by the angle p * theta^(-2n/C)      Su et al. 2021, arXiv:2104.09864
           The n-th pair (i, j) is (n, n + C/2) in the half-split layout and (2n, 2n + 1) in the interleaved one.
           Scaled variants (linear, dynamic NTK, YaRN, llama3, longrope) come from transformers' `modeling_rope_utils`.
Sinusoids  P[p, 2n] = sin(p / 10000^(2n/D)), P[p, 2n+1] = cos(..)  Vaswani et al. 2017, arXiv:1706.03762

Legend: B batch, T positions, D model, H heads, C head size, R rotated part of a head.
"""

import math

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update


class RhapsodeScaledEmbedding(nn.Embedding):
    """The multiplier lives in the module, so that `inputs_embeds` and pipeline stages see scaled vectors."""

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None, embed_scale: float):
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        self.embed_scale = embed_scale

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        scale = torch.tensor(self.embed_scale, dtype=self.weight.dtype)  # rounded first, as Gemma was trained
        return super().forward(input_ids) * scale


class RhapsodeSinusoidalEmbedding(nn.Module):
    """A fixed table of (max_position_embeddings, D), kept in float32 and not saved."""

    def __init__(self, positions: int, dim: int):
        super().__init__()
        self.shape = (positions, dim)
        self.weight = nn.Buffer(self.table(), persistent=False)

    def table(self) -> torch.Tensor:
        T, D = self.shape
        rate = torch.exp(torch.arange(0, D, 2, dtype=torch.float32) * (-math.log(10000.0) / D))  # (D/2,)
        angle = torch.arange(T, dtype=torch.float32)[:, None] * rate  # (T, D/2)
        return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[:, :D]  # (T, D)

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(position_ids, self.weight)


class RhapsodeRotaryEmbedding(nn.Module):
    """cos and sin of every rotated angle, each (B, T, R), for the positions (B, T)."""

    def __init__(self, config, device=None):
        super().__init__()
        self.config = config
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        init_fn = self.compute_default_rope_parameters
        if self.rope_type != "default":
            init_fn = ROPE_INIT_FUNCTIONS[self.rope_type]
        inv_freq, self.attention_scaling = init_fn(config, device)
        # Not saved: `_init_weights` of transformers computes them again, in float32, after every load.
        self.inv_freq = nn.Buffer(inv_freq, persistent=False)
        self.original_inv_freq = nn.Buffer(inv_freq.clone(), persistent=False)
        self.layout = interleaved if config.rope_interleaved else half_split

    @staticmethod
    def compute_default_rope_parameters(config, device=None, **kwargs) -> tuple[torch.Tensor, float]:
        rotated = int(config.head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))
        exponent = torch.arange(0, rotated, 2, dtype=torch.float32, device=device) / rotated  # (R/2,)
        return 1.0 / (config.rope_parameters["rope_theta"] ** exponent), 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angle = position_ids[..., None].float() * self.inv_freq.to(x.device, torch.float32)  # (B, T, R/2)
        angle = self.layout(angle)  # (B, T, R)
        cos, sin = angle.cos() * self.attention_scaling, angle.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)


def half_split(angle: torch.Tensor) -> torch.Tensor:
    return torch.cat((angle, angle), dim=-1)


def interleaved(angle: torch.Tensor) -> torch.Tensor:
    return angle.repeat_interleave(2, dim=-1)


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    """(x1, x2) -> (-x2, x1) on the two halves of the last dimension."""
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat((-x2, x1), dim=-1)


def rotate_pairs(x: torch.Tensor) -> torch.Tensor:
    """(x0, x1, x2, x3, ...) -> (-x1, x0, -x3, x2, ...) on the last dimension."""
    return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)


def apply_rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, rotate) -> torch.Tensor:
    """Rotate the first R elements of each head of `x`, (B, H, T, C), by the angles of `cos` and `sin`, (B, 1, T, R)."""
    R = cos.shape[-1]
    if R == x.shape[-1]:
        return x * cos + rotate(x) * sin
    turned, kept = x[..., :R], x[..., R:]
    return torch.cat((turned * cos + rotate(turned) * sin, kept), dim=-1)


def build_token_embedding(config) -> nn.Embedding:
    arguments = config.vocab_size, config.hidden_size, config.pad_token_id
    if config.embedding_multiplier == 1.0:
        return nn.Embedding(*arguments)
    return RhapsodeScaledEmbedding(*arguments, config.embedding_multiplier)


def build_position_table(config) -> nn.Module | None:
    """What is added to the embedded tokens: a learned or a fixed table, or nothing (RoPE and NoPE)."""
    if config.position_embedding_type == "learned":
        return nn.Embedding(config.max_position_embeddings, config.hidden_size)
    if config.position_embedding_type == "sinusoidal":
        return RhapsodeSinusoidalEmbedding(config.max_position_embeddings, config.hidden_size)
    return None


def absolute_positions(position_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Count from the first real token of each row, so that left padding does not shift a table of positions.

    `position_ids` (1, T) are the default ones; `attention_mask` is (B, cached + T), or anything else to be ignored.
    """
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.dim() != 2:
        return position_ids
    counted = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
    return counted[:, -position_ids.shape[1] :]
