"""The block: how attention A, feed-forward F and norms N are wired to the residual stream x.

pre        x = x + A(N(x));        x = x + F(N(x))            GPT-2, Llama
output     x = x + N(A(x));        x = x + N(F(x))            OLMo 2
sandwich   x = x + N(A(N(x)));     x = x + N(F(N(x)))         Gemma 2
post       x = N(x + A(x));        x = N(x + F(x))            Vaswani et al. 2017, GPT-1
parallel   x = x + A(N(x)) + F(N(x))                          GPT-J, PaLM; GPT-NeoX gives F a norm of its own

Each line is a function below, chosen once in the constructor together with the names of the norms that it uses.
"""

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import RhapsodeAttention
from .caches import take_cache
from .feedforward import RhapsodeGatedMLP, RhapsodeMLP
from .norms import build_norm


def pre_norm(block, x, attend, feed):
    x = block.add(x, attend(block.input_layernorm(x)))
    return block.add(x, feed(block.post_attention_layernorm(x)))


def output_norm(block, x, attend, feed):
    x = block.add(x, block.post_attention_layernorm(attend(x)))
    return block.add(x, block.post_feedforward_layernorm(feed(x)))


def sandwich_norm(block, x, attend, feed):
    x = block.add(x, block.post_attention_layernorm(attend(block.input_layernorm(x))))
    return block.add(x, block.post_feedforward_layernorm(feed(block.pre_feedforward_layernorm(x))))


def post_norm(block, x, attend, feed):
    x = block.post_attention_layernorm(block.add(x, attend(x)))
    return block.post_feedforward_layernorm(block.add(x, feed(x)))


def parallel_one_norm(block, x, attend, feed):
    normed = block.input_layernorm(x)
    return block.add(x, attend(normed) + feed(normed))


def parallel_two_norms(block, x, attend, feed):
    return block.add(x, attend(block.input_layernorm(x)) + feed(block.post_attention_layernorm(x)))


PRE_NORMS = ("input_layernorm", "post_attention_layernorm")
AFTER_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
WIRINGS = {
    "pre": (pre_norm, PRE_NORMS),
    "output": (output_norm, AFTER_NORMS),
    "post": (post_norm, AFTER_NORMS),
    "sandwich": (sandwich_norm, ("input_layernorm", "pre_feedforward_layernorm", *AFTER_NORMS)),
    "parallel_one_norm": (parallel_one_norm, PRE_NORMS[:1]),
    "parallel_two_norms": (parallel_two_norms, PRE_NORMS),
}


class RhapsodeDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config, layer_idx: int):
        super().__init__()
        parallel = "parallel_one_norm" if config.parallel_shared_norm else "parallel_two_norms"
        self.wiring, norms = WIRINGS[parallel if config.parallel_block else config.norm_order]
        self.self_attn = RhapsodeAttention(config, layer_idx)
        self.mlp = RhapsodeGatedMLP(config) if config.mlp_gated else RhapsodeMLP(config)
        for name in norms:
            self.add_module(name, build_norm(config))
        self.dropout = nn.Dropout(config.residual_dropout)
        self.residual_multiplier = config.residual_multiplier

    def add(self, x: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
        return torch.add(x, self.dropout(update), alpha=self.residual_multiplier)

    def forward(self, hidden_states, attention_mask=None, position_embeddings=None, past_key_values=None, **kwargs):
        cache = take_cache(past_key_values, kwargs)

        def attend(x: torch.Tensor) -> torch.Tensor:
            return self.self_attn(x, position_embeddings, attention_mask, cache, **kwargs)[0]

        return self.wiring(self, hidden_states, attend, self.mlp)
