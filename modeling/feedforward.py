"""The position-wise feed-forward layer.

plain   W_down act(W_up x)                        Vaswani et al. 2017, arXiv:1706.03762
gated   W_down (act(W_gate x) * (W_up x))         Shazeer 2020, arXiv:2002.05202 (SwiGLU where act is silu)

Two classes and not one with a branch, because vLLM and SGLang rewrite the gated one by the shape of its source.
"""

import torch
from torch import nn
from transformers.activations import ACT2FN


class RhapsodeMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.up_proj(x)))


class RhapsodeGatedMLP(RhapsodeMLP):
    def __init__(self, config):
        super().__init__(config)
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
