"""Normalisation of the last dimension.

LayerNorm  y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias     Ba, Kiros and Hinton 2016, arXiv:1607.06450
RMSNorm    y =  x / sqrt(mean(x^2) + eps) * weight                    Zhang and Sennrich 2019, arXiv:1910.07467

Statistics are taken in float32 at least, whatever the dtype of `x`; the weight is applied in the dtype of `x` as Llama
does. Weight and bias are each optional: OLMo's norm has neither, PaLM's has no bias.
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


class RhapsodeLayerNorm(nn.Module):
    def __init__(self, size: int, eps: float, affine: bool = True, bias: bool = False):
        super().__init__()
        self.eps, self.normalized_shape = eps, (size,)
        self.register_parameter("weight", nn.Parameter(torch.ones(size)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(size)) if affine and bias else None)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(hidden_states, self.normalized_shape, self.weight, self.bias, self.eps)


class RhapsodePerHeadNorm(nn.Module):
    """A norm of each head of (B, T, H, C) with a scale of its own, (H, C), and never an offset.

    Not named RMSNorm or LayerNorm: serving engines replace those by kernels that expect a vector.
    """

    def __init__(self, norm: nn.Module, size: tuple[int, int], affine: bool = True):
        super().__init__()
        self.norm = norm  # without a scale
        self.register_parameter("weight", nn.Parameter(torch.ones(size)) if affine else None)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        x = self.norm(hidden_states)
        return x if self.weight is None else self.weight * x


class _OverAllHeads:
    """Normalises (B, T, H, C) over H and C together: OLMo 2's norm of the whole projection."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden_states.flatten(-2)).view(hidden_states.shape)


class RhapsodeProjectionRMSNorm(_OverAllHeads, RhapsodeRMSNorm): ...


class RhapsodeProjectionLayerNorm(_OverAllHeads, RhapsodeLayerNorm): ...


def _norm(config, size: int, rms: type, layer: type, affine: bool) -> nn.Module:
    if config.norm_type == "rms_norm":
        return rms(size, config.norm_eps, affine)
    return layer(size, config.norm_eps, affine, config.norm_bias)


def build_norm(config) -> nn.Module:
    """A norm of the residual stream, (..., D)."""
    return _norm(config, config.hidden_size, RhapsodeRMSNorm, RhapsodeLayerNorm, config.norm_affine)


def build_qk_norm(config, heads: int) -> nn.Module:
    """The norm of queries or keys, (..., heads, C)."""
    C, affine = config.head_dim, config.norm_affine
    if config.qk_norm == "head":
        return _norm(config, C, RhapsodeRMSNorm, RhapsodeLayerNorm, affine)
    if config.qk_norm == "full":
        return _norm(config, heads * C, RhapsodeProjectionRMSNorm, RhapsodeProjectionLayerNorm, affine)
    if config.qk_norm == "per_head":
        return RhapsodePerHeadNorm(_norm(config, C, RhapsodeRMSNorm, RhapsodeLayerNorm, False), (heads, C), affine)
    return nn.Identity()
