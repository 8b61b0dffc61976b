import pytest
import torch
from rhapsode import RhapsodeConfig
from rhapsode.modeling.norms import build_norm, build_qk_norm

FLOAT64 = 1e-13  # the same equation in another order of operations
BFLOAT16 = 2**-8  # one rounding of the result: statistics are taken in float32


def layer_norm(x, eps):
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(-1, keepdim=True) + eps).sqrt()


def rms_norm(x, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


NORMS = [
    ({"norm_type": "rms_norm"}, rms_norm),
    ({"norm_type": "rms_norm", "norm_affine": False}, rms_norm),
    ({"norm_type": "layer_norm"}, layer_norm),
    ({"norm_type": "layer_norm", "norm_bias": True}, layer_norm),
    ({"norm_type": "layer_norm", "norm_affine": False}, layer_norm),
]
each_norm = pytest.mark.parametrize(("fields", "equation"), NORMS, ids=[str(fields) for fields, _ in NORMS])


def affine(module, y):
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@each_norm
def test_equation(fields, equation, seed, assert_near):
    config = RhapsodeConfig(hidden_size=48, norm_eps=0.1, **fields)
    norm = build_norm(config).double()
    parameters = dict(norm.named_parameters())
    assert ("weight" in parameters, "bias" in parameters) == (config.norm_affine, config.norm_bias)
    for parameter in parameters.values():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 5, 48, dtype=torch.float64) + 1.0
    assert_near(norm(x), affine(norm, equation(x, 0.1)), FLOAT64)


@each_norm
def test_statistics_of_bfloat16_are_taken_in_float32(fields, equation, seed, assert_near):
    x = (torch.randn(4, 1024) + 3.0).bfloat16()
    norm = build_norm(RhapsodeConfig(hidden_size=1024, num_attention_heads=8, **fields)).bfloat16()
    assert_near(norm(x), equation(x.double(), norm.eps if hasattr(norm, "eps") else 1e-6), BFLOAT16)


@each_norm
@pytest.mark.parametrize("kind", ["head", "per_head", "full"])
def test_queries_and_keys(fields, equation, kind, seed, assert_near):
    H, C = 3, 8
    config = RhapsodeConfig(num_attention_heads=H, hidden_size=H * C, qk_norm=kind, **fields)
    norm, width = build_qk_norm(config, H)
    norm = norm.double()
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    q = torch.randn(2, 5, H * C, dtype=torch.float64)
    result = norm(q.view(2, 5, -1, width)).view(2, 5, H, C)
    if kind == "full":
        expected = affine(norm, equation(q, 1e-6)).view(2, 5, H, C)
    elif kind == "head":
        expected = torch.stack([affine(norm, equation(q.view(2, 5, H, C)[:, :, h], 1e-6)) for h in range(H)], 2)
    else:
        scale = norm.weight if config.norm_affine else torch.ones(H, C)
        expected = torch.stack([equation(q.view(2, 5, H, C)[:, :, h], 1e-6) * scale[h] for h in range(H)], 2)
        expected = expected + norm.bias if "bias" in dict(norm.named_parameters()) else expected
    assert_near(result, expected, FLOAT64)


def test_none_leaves_queries_and_keys_alone():
    norm, width = build_qk_norm(RhapsodeConfig(qk_norm="none"), 12)
    assert isinstance(norm, torch.nn.Identity)
    assert width == 64
