import math

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeModel
from rhapsode.modeling.positions import (
    RhapsodeRotaryEmbedding,
    RhapsodeSinusoidalEmbedding,
    absolute_positions,
    apply_rotary,
    rotate_half_split,
    rotate_interleaved,
)
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

FLOAT32_ANGLE = 2e-5  # angles of up to 100 radians in float32, so sines are right to 100 * 2^-24 and some
SAME = 0.0  # the same operations

SCALINGS = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 4.0},
    {"rope_type": "yarn", "factor": 4.0},
    {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    | {"original_max_position_embeddings": 64},
    {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "factor": 4.0},
]


def config_of(rope: dict, **fields) -> RhapsodeConfig:
    rope = {"rope_theta": 1e4, **rope}
    return RhapsodeConfig(
        hidden_size=64, num_attention_heads=4, max_position_embeddings=64, rope_parameters=rope, **fields
    )


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_is_multiplication_by_a_complex_number(interleaved, seed, assert_near):
    T, C = 100, 16
    x = torch.randn(2, 3, T, C)
    rotary = RhapsodeRotaryEmbedding(config_of({"rope_type": "default"}))
    cos, sin = (table.unsqueeze(1) for table in rotary(x, torch.arange(T)[None]))
    result = apply_rotary(x, cos, sin, rotate_interleaved if interleaved else rotate_half_split)
    first, second = (x[..., ::2], x[..., 1::2]) if interleaved else (x[..., : C // 2], x[..., C // 2 :])
    rate = torch.tensor([1e4 ** (-2 * n / C) for n in range(C // 2)], dtype=torch.float64)
    angle = torch.arange(T, dtype=torch.float64)[:, None] * rate
    turned = torch.complex(first.double(), second.double()) * torch.exp(1j * angle)
    pair = (turned.real, turned.imag)
    expected = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    assert_near(result, expected, FLOAT32_ANGLE)


def test_only_the_stated_part_of_a_head_rotates(seed):
    x = torch.randn(1, 1, 10, 16)
    config = config_of({"rope_type": "default", "partial_rotary_factor": 0.25})
    cos, sin = (table.unsqueeze(1) for table in RhapsodeRotaryEmbedding(config)(x, torch.arange(10)[None]))
    result = apply_rotary(x, cos, sin, rotate_half_split)
    assert torch.equal(result[..., 4:], x[..., 4:])
    assert not torch.equal(result[:, :, 1:, :4], x[:, :, 1:, :4])


@pytest.mark.parametrize("rope", SCALINGS, ids=lambda rope: rope["rope_type"])
@pytest.mark.parametrize("length", [32, 100])
def test_scalings_are_those_of_llama(rope, length, seed, assert_near):
    config = config_of(rope)
    theirs = LlamaConfig(
        hidden_size=64, num_attention_heads=4, max_position_embeddings=64, rope_parameters=dict(config.rope_parameters)
    )
    x, positions = torch.randn(1, 1), torch.arange(length)[None]
    tables = RhapsodeRotaryEmbedding(config)(x, positions), LlamaRotaryEmbedding(theirs)(x, positions)
    for ours, expected in zip(*tables, strict=True):
        assert_near(torch.cat((ours, ours), -1), expected, SAME)


def test_sinusoids_are_those_of_the_paper(assert_near):
    T, D = 50, 12
    expected = torch.empty(T, D, dtype=torch.float64)
    for p in range(T):
        for n in range(D // 2):
            expected[p, 2 * n] = math.sin(p / 10000 ** (2 * n / D))
            expected[p, 2 * n + 1] = math.cos(p / 10000 ** (2 * n / D))
    assert_near(RhapsodeSinusoidalEmbedding(T, D)(torch.arange(T)), expected, FLOAT32_ANGLE)


@pytest.mark.parametrize("kind", ["rope", "sinusoidal"])
def test_casting_a_model_does_not_round_its_tables(kind, configure):
    config = configure("rhapsode-10m", position_embedding_type=kind)
    exact, cast = RhapsodeModel(config), RhapsodeModel(config).to(torch.bfloat16)
    assert next(cast.parameters()).dtype == torch.bfloat16
    assert dict(exact.named_buffers())
    for key, table in cast.named_buffers():
        assert table.dtype == torch.float32
        assert torch.equal(table, exact.get_buffer(key))


def test_tables_count_from_the_first_real_token():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]])
    default = torch.arange(5)[None]
    assert absolute_positions(default, mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 3]]
    assert absolute_positions(default[:, 4:], mask).tolist() == [[2], [3]]  # with four tokens in the cache
    assert absolute_positions(default, None) is default
