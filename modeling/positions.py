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


class Float32Buffers(nn.Module):
    """Tables that are neither saved nor rounded: `model.to(torch.bfloat16)` moves them and leaves their dtype."""

    def _apply(self, fn, recurse=True):
        return super()._apply(lambda t: fn(t) if t.is_meta else t.to(fn(t).device), recurse)


class RhapsodeScaledEmbedding(nn.Embedding):
    """The multiplier lives in the module, so that `inputs_embeds` and pipeline stages see scaled vectors."""

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None, embed_scale: float):
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        self.embed_scale = embed_scale

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        scale = torch.tensor(self.embed_scale, dtype=self.weight.dtype)  # rounded first, as Gemma was trained
        return super().forward(input_ids) * scale


class RhapsodeSinusoidalEmbedding(Float32Buffers):
    """A fixed table of (max_position_embeddings, D)."""

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


class RhapsodeRotaryEmbedding(Float32Buffers):
    """cos and sin of every angle, each (B, T, R/2), for the positions (B, T)."""

    def __init__(self, config, device=None):
        super().__init__()
        self.config = config
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        compute = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        inv_freq, self.attention_scaling = compute(config, device)
        # `_init_weights` of transformers looks for these names and fills them again after every load.
        self.inv_freq = nn.Buffer(inv_freq, persistent=False)
        self.original_inv_freq = nn.Buffer(inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config, device=None, **kwargs) -> tuple[torch.Tensor, float]:
        rotated = int(config.head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))
        exponent = torch.arange(0, rotated, 2, dtype=torch.float32, device=device) / rotated  # (R/2,)
        return 1.0 / (config.rope_parameters["rope_theta"] ** exponent), 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angle = position_ids[..., None].float() * self.inv_freq.to(x.device, torch.float32)  # (B, T, R/2)
        cos, sin = angle.cos() * self.attention_scaling, angle.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)


def rotate_half_split(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)


def rotate_interleaved(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x1, x2 = x[..., ::2], x[..., 1::2]
    return torch.stack((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1).flatten(-2)


def apply_rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, rotate) -> torch.Tensor:
    """Rotate the first R elements of each head of `x`, (B, H, T, C); `cos` and `sin` are (B, 1, T, R/2)."""
    R = 2 * cos.shape[-1]
    return rotate(x, cos, sin) if x.shape[-1] == R else torch.cat((rotate(x[..., :R], cos, sin), x[..., R:]), dim=-1)


def build_embeddings(config) -> tuple[nn.Embedding, nn.Module | None, nn.Module | None]:
    """Of tokens; the table of positions that is added to it, if any; the angles that rotate heads, if any."""
    rows, scale = (config.vocab_size, config.hidden_size, config.pad_token_id), config.embedding_multiplier
    tokens = nn.Embedding(*rows) if scale == 1.0 else RhapsodeScaledEmbedding(*rows, scale)
    kind, shape = config.position_embedding_type, (config.max_position_embeddings, config.hidden_size)
    tables = {"learned": nn.Embedding, "sinusoidal": RhapsodeSinusoidalEmbedding}
    table = tables[kind](*shape) if kind in tables else None
    return tokens, table, RhapsodeRotaryEmbedding(config) if kind == "rope" else None


def absolute_positions(position_ids: torch.Tensor, attention_mask) -> torch.Tensor:
    """Count the default ones, (1, T), from the first real token of `attention_mask`, (B, cached + T), if it is that."""
    if getattr(attention_mask, "ndim", None) != 2:
        return position_ids
    counted = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
    return counted[:, -position_ids.shape[1] :]
