"""Normalisation of the last dimension.

LayerNorm  y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias     Ba, Kiros and Hinton 2016, arXiv:1607.06450
RMSNorm    y =  x / sqrt(mean(x^2) + eps) * weight                    Zhang and Sennrich 2019, arXiv:1910.07467

Statistics are taken in float32 at least, whatever the dtype of `x`; RMSNorm's weight is applied in the dtype of `x` as
Llama does. Weight and bias are each optional: OLMo's norm has neither, PaLM's has no bias.
"""

import torch
from torch import nn


class RhapsodeRMSNorm(nn.Module):
    def __init__(self, size: int, eps: float, affine: bool = True):
        super().__init__()
        self.variance_epsilon = eps
        self.register_parameter("weight", nn.Parameter(torch.ones(size)) if affine else None)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        dtype = hidden_states.dtype
        x = hidden_states.to(torch.promote_types(dtype, torch.float32))
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return x.to(dtype) if self.weight is None else self.weight * x.to(dtype)


class RhapsodePerHeadNorm(nn.Module):
    """Of each head of (B, T, H, C) with its own scale, (H, C). Serving engines take a *RMSNorm's scale for a vector."""

    def __init__(self, norm: nn.Module, size: tuple[int, int]):
        super().__init__()
        self.norm, self.weight = norm, nn.Parameter(torch.ones(size))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.weight * self.norm(hidden_states)


def build_norm(config, size: int | None = None, affine: bool = True) -> nn.Module:
    """A norm over the last `size` elements; `None` is the residual stream."""
    size, affine = size or config.hidden_size, affine and config.norm_affine
    if config.norm_type == "rms_norm":
        return RhapsodeRMSNorm(size, config.norm_eps, affine)
    return nn.LayerNorm(size, config.norm_eps, affine, config.norm_bias)


def build_qk_norm(config, heads: int) -> tuple[nn.Module, int]:
    """The norm of queries or keys, and the width of the groups, (B, T, heads * C / width, width), that it takes."""
    C = config.head_dim
    if config.qk_norm == "none":
        return nn.Identity(), C
    if config.qk_norm == "per_head" and config.norm_affine:
        return RhapsodePerHeadNorm(build_norm(config, C, affine=False), (heads, C)), C
    width = heads * C if config.qk_norm == "full" else C
    return build_norm(config, width), width
