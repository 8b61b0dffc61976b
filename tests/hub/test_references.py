"""PaLM and Open LM, which transformers does not have, against their papers' equations in plain torch.

Nothing is shared with the model: norms from their definition, RoPE as a product of complex numbers (Su et al. 2021,
arXiv:2104.09864, eq. 14), attention head by head with an explicit mask.

Legend: T positions, D model, H query heads, K key and value heads, C head size.
"""

import math

import pytest
import rhapsode
import torch

LENGTH = 112
LOGITS_TOLERANCE = 3e-6  # float32 rounding of sums in another order, relative to the largest logit
GRADIENT_TOLERANCE = 1e-5  # as above through the backward pass, relative to the largest entry of the same tensor


def layer_norm(x, weights, name, eps):
    centred = x - x.mean(-1, keepdim=True)
    y = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps) * weights[f"{name}.weight"]
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def rotate(x, theta=10000.0):
    """(T, C): element n and element n + C/2 are a complex number, turned by t theta^(-2n/C)."""
    T, C = x.shape
    rate = theta ** (-torch.arange(0, C, 2, dtype=torch.float64) / C)  # (C/2,)
    angle = torch.arange(T, dtype=torch.float64)[:, None] * rate
    turn = torch.polar(torch.ones_like(angle), angle).to(torch.complex64)
    turned = torch.complex(x[:, : C // 2], x[:, C // 2 :]) * turn
    return torch.cat((turned.real, turned.imag), dim=-1)


def attention(x, weights, layer, H, K):
    """Softmax(q k^T / sqrt(C)) v for each head, over the positions up to its own; H / K of them share a key head."""
    q, k, v = (x @ weights[f"{layer}.self_attn.{name}_proj.weight"].T for name in "qkv")
    C = q.shape[-1] // H
    future = torch.ones(len(x), len(x)).triu(1).bool()
    heads = []
    for h in range(H):
        g = h // (H // K)
        q_h, k_h = rotate(q[:, h * C : (h + 1) * C]), rotate(k[:, g * C : (g + 1) * C])
        scores = (q_h @ k_h.T / math.sqrt(C)).masked_fill(future, -torch.inf)
        heads.append(torch.softmax(scores, -1) @ v[:, g * C : (g + 1) * C])
    return torch.cat(heads, -1) @ weights[f"{layer}.self_attn.o_proj.weight"].T


def swiglu(x, weights, layer):
    """(Swish(x W) * x V) W_2, Shazeer 2020, arXiv:2002.05202."""
    gate, up = (x @ weights[f"{layer}.mlp.{name}_proj.weight"].T for name in ("gate", "up"))
    return (gate / (1 + torch.exp(-gate)) * up) @ weights[f"{layer}.mlp.down_proj.weight"].T


def palm(ids, weights, config):
    """Chowdhery et al. 2022, arXiv:2204.02311, section 2: y = x + MLP(LayerNorm(x)) + Attention(LayerNorm(x)).

    No biases, one key and value head, shared embeddings. The section on training also scales the logits by 1 / sqrt(D),
    beside an embedding drawn from N(0, 1): `logit_scale`, which the preset leaves at 1.
    """
    x = weights["model.embed_tokens.weight"][ids]
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        normed = layer_norm(x, weights, f"{layer}.input_layernorm", config.norm_eps)
        x = x + swiglu(normed, weights, layer) + attention(normed, weights, layer, config.num_attention_heads, 1)
    x = layer_norm(x, weights, "model.norm", config.norm_eps)
    return x @ weights["model.embed_tokens.weight"].T * config.logit_scale


def open_lm(ids, weights, config):
    """Gururangan et al. 2023, github.com/mlfoundations/open_lm: x = x + Attention(LN(x)); x = x + MLP(LN(x))."""
    x = weights["model.embed_tokens.weight"][ids]
    H = config.num_attention_heads
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        x = x + attention(layer_norm(x, weights, f"{layer}.input_layernorm", config.norm_eps), weights, layer, H, H)
        x = x + swiglu(layer_norm(x, weights, f"{layer}.post_attention_layernorm", config.norm_eps), weights, layer)
    return layer_norm(x, weights, "model.norm", config.norm_eps) @ weights["lm_head.weight"].T


@pytest.mark.parametrize(
    ("preset", "changes", "reference"),
    [("palm-8b-tiny", {}, palm), ("palm-8b-tiny", {"logit_scale": 1 / 8}, palm), ("openlm-7b-tiny", {}, open_lm)],
)
def test_equations_of_the_paper(preset, changes, reference, seed, tools):
    config = rhapsode.RhapsodeConfig.from_preset(preset, **changes)
    model = tools.randomise(rhapsode.RhapsodeForCausalLM(config)).eval()
    ids = torch.randint(config.vocab_size, (LENGTH,))
    weights = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}

    expected = reference(ids, weights, config)
    logits = model(ids[None]).logits[0]
    assert tools.relative_difference(logits, expected) < LOGITS_TOLERANCE

    direction = torch.randn_like(expected)
    (expected * direction).sum().backward()
    (logits * direction).sum().backward()
    for name, parameter in model.named_parameters():
        assert tools.relative_difference(parameter.grad, weights[name].grad) < GRADIENT_TOLERANCE, name
