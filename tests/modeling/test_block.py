import pytest
import torch
from rhapsode.modeling.block import RhapsodeDecoderLayer
from rhapsode.modeling.feedforward import RhapsodeGatedMLP, RhapsodeMLP
from torch.nn.functional import gelu, silu

FLOAT64 = 1e-13

# The equations of the module's table with a multiplier m: A attention, F feed-forward, n the norms by their names.
EQUATIONS = {
    "pre": lambda x, A, F, n, m: (y := x + m * A(n["input"](x))) + m * F(n["post_attention"](y)),
    "output": lambda x, A, F, n, m: (y := x + m * n["post_attention"](A(x))) + m * n["post_feedforward"](F(y)),
    "sandwich": lambda x, A, F, n, m: (
        (y := x + m * n["post_attention"](A(n["input"](x)))) + m * n["post_feedforward"](F(n["pre_feedforward"](y)))
    ),
    "post": lambda x, A, F, n, m: n["post_feedforward"]((y := n["post_attention"](x + m * A(x))) + m * F(y)),
    "one norm": lambda x, A, F, n, m: x + m * (A(n["input"](x)) + F(n["input"](x))),
    "two norms": lambda x, A, F, n, m: x + m * (A(n["input"](x)) + F(n["post_attention"](x))),
}


@pytest.mark.parametrize("wiring", EQUATIONS)
@pytest.mark.parametrize("multiplier", [1.0, 0.3])
def test_wiring(wiring, multiplier, configure, seed, assert_near):
    parallel = wiring.endswith(("norm", "norms"))
    order = (
        {"parallel_block": True, "parallel_shared_norm": wiring == "one norm"} if parallel else {"norm_order": wiring}
    )
    config = configure("gpt2", **{"norm_order": "pre", **order}, residual_multiplier=multiplier)
    config._attn_implementation = "eager"
    block = RhapsodeDecoderLayer(config, 0).double().eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 7, 64, dtype=torch.float64)
    norms = {key.removesuffix("_layernorm"): module for key, module in block.named_children() if "layernorm" in key}
    expected = EQUATIONS[wiring](x, lambda y: block.self_attn(y)[0], block.mlp, norms, multiplier)
    assert_near(block(x), expected, FLOAT64)


def test_feed_forward(configure, seed, assert_near):
    x = torch.randn(2, 3, 64, dtype=torch.float64)
    gated = RhapsodeGatedMLP(configure("rhapsode-10m", mlp_bias=True)).double()
    gate, up = x @ gated.gate_proj.weight.T + gated.gate_proj.bias, x @ gated.up_proj.weight.T + gated.up_proj.bias
    assert_near(gated(x), (silu(gate) * up) @ gated.down_proj.weight.T + gated.down_proj.bias, FLOAT64)
    plain = RhapsodeMLP(configure("falcon-7b")).double()
    assert_near(plain(x), gelu(x @ plain.up_proj.weight.T) @ plain.down_proj.weight.T, FLOAT64)


def test_dropout_acts_on_what_a_sublayer_adds_and_only_in_training(configure, seed):
    config = configure("gpt2", residual_dropout=0.5, attention_dropout=0.0)
    config._attn_implementation = "eager"
    block, x = RhapsodeDecoderLayer(config, 0), torch.randn(1, 4, 64)
    update = torch.ones(1000)
    dropped = block.train().add(torch.zeros(1000), update)
    assert set(dropped.tolist()) == {0.0, 2.0}
    assert torch.equal(block.eval().add(torch.zeros(1000), update), update)
    assert torch.equal(block(x), block(x))
