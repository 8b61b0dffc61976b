import math

import pytest
import torch
from rhapsode.modeling.attention import RhapsodeAttention
from torch.nn.attention import flex_attention

KERNEL = 3e-6  # float32 sums in another order, through two layers
FLOAT64 = 1e-12


@pytest.mark.parametrize(("heads", "kv_heads", "window"), [(4, 4, None), (4, 2, None), (4, 1, None), (6, 3, 4)])
def test_equation_token_by_token(heads, kv_heads, window, configure, seed, assert_near):
    C, T = 8, 11
    config = configure(
        "rhapsode-10m",
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=C,
        qk_norm="none",
        position_embedding_type="none",
        attention_bias=True,
        clip_qkv=0.3,
        attention_multiplier=0.7,
        sliding_window=window,
    )
    config._attn_implementation = "sdpa"
    attention = RhapsodeAttention(config, 0).double()
    x = torch.randn(1, T, config.hidden_size, dtype=torch.float64)
    near = torch.arange(T)[:, None] - torch.arange(T)
    visible = (near >= 0) & (near < (window or T))
    result, _ = attention(x, attention_mask=visible[None, None])

    q, k, v = (getattr(attention, f"{n}_proj")(x)[0].clamp(-0.3, 0.3).view(T, -1, C) for n in "qkv")
    outputs = torch.zeros(T, heads, C, dtype=torch.float64)
    for h in range(heads):
        g = h // (heads // kv_heads)
        for t in range(T):
            seen = [s for s in range(t + 1) if s > t - (window or T)]
            scores = [math.exp(0.7 * (q[t, h] @ k[s, g]).item()) for s in seen]
            for s, score in zip(seen, scores, strict=True):
                outputs[t, h] += score / sum(scores) * v[s, g]
    assert_near(result[0], attention.o_proj(outputs.flatten(1)), FLOAT64)


def test_eager_sdpa_and_flex_attention_agree(name, build, ids, assert_near, monkeypatch):
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(torch, "compile", lambda function=None, **_: function)  # the definition, not a built kernel
    model, x = build(name), ids(2, 24)
    padded = torch.ones_like(x)
    padded[0, :5] = 0
    for mask in (None, padded):
        logits = {}
        for kernel in ("eager", "sdpa", "flex_attention"):
            model.set_attn_implementation(kernel)
            with torch.no_grad():
                logits[kernel] = model(x, attention_mask=mask).logits
            if mask is not None:
                logits[kernel] = logits[kernel][mask.bool()]
        assert_near(logits["sdpa"], logits["eager"], KERNEL)
        assert_near(logits["flex_attention"], logits["eager"], KERNEL)


def test_weights_are_returned_by_eager_attention(build, ids):
    model, x = build("rhapsode-50m", attn_implementation="eager"), ids(2, 9)
    weights = model(x, output_attentions=True).attentions
    assert len(weights) == 2
    assert weights[0].shape == (2, 4, 9, 9)
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(2, 4, 9))
    assert not weights[0].triu(1).any()
