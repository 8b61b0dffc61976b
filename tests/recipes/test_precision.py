"""Number formats: what the options and the device give, what is refused, and torchao's float8 where it is installed."""

import importlib.util

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.options.pretrain import PretrainOptions
from rhapsode.recipes.training import precision
from rhapsode.recipes.training.hardware import supports_bf16
from rhapsode.recipes.training.precision import choose_precision, convert_to_fp8
from torch import nn

CPU, GPU = torch.device("cpu"), torch.device("cuda")
FLOAT8_TOLERANCE = 0.05  # e4m3 has 4 bits of mantissa: 6% a factor, averaged over a product


@pytest.mark.parametrize(
    ("given", "weights", "autocast", "text"),
    [
        ({"bf16": False}, torch.float32, None, "float32 master weights, products in float32"),
        (
            {"bf16": True},
            torch.float32,
            torch.bfloat16,
            "float32 master weights, products in bfloat16 (autocast)",
        ),
        ({"pure_bf16": True}, torch.bfloat16, None, "pure bfloat16"),
        ({"pure_bf16": True, "bf16": True}, torch.bfloat16, None, "pure bfloat16"),
    ],
)
def test_formats(given, weights, autocast, text):
    chosen = choose_precision(PretrainOptions(**given), CPU)
    assert (chosen.weights, chosen.autocast, chosen.fp8, str(chosen)) == (weights, autocast, False, text)
    assert chosen.mixed_precision == ("bf16" if autocast else "no")
    assert chosen.products == (autocast or weights)


def test_left_open_it_is_what_the_hardware_has():
    chosen = choose_precision(PretrainOptions(), CPU)
    assert chosen.autocast == (torch.bfloat16 if supports_bf16(CPU) else None)


def gpu(monkeypatch, capability, has_torchao=True):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if has_torchao else None)
    monkeypatch.setattr(precision, "supports_bf16", lambda device: True)


def test_float8_where_the_hardware_has_it(monkeypatch):
    gpu(monkeypatch, (9, 0))
    chosen = choose_precision(PretrainOptions(fp8=True), GPU)
    assert str(chosen) == (
        "float32 master weights, products in bfloat16 (autocast), those of the blocks in float8 (torchao)"
    )
    assert chosen.fp8
    assert str(choose_precision(PretrainOptions(fp8=True, pure_bf16=True), GPU)).startswith("pure bfloat16, those of")


@pytest.mark.parametrize(
    ("given", "device", "capability", "has_torchao", "message"),
    [
        ({"pure_bf16": True, "bf16": False}, CPU, None, True, "--pure_bf16 with --no-bf16"),
        ({"fp8": True, "bf16": False}, GPU, (9, 0), True, "--fp8 with --no-bf16"),
        ({"fp8": True}, CPU, None, True, "8.9 or more, and this is cpu"),
        ({"fp8": True}, GPU, (8, 6), True, "8.9 or more, and this is compute capability 8.6"),
        ({"fp8": True}, GPU, (8, 9), False, "pip install torchao"),
    ],
)
def test_what_cannot_be_is_refused(given, device, capability, has_torchao, message, monkeypatch):
    gpu(monkeypatch, capability, has_torchao)
    with pytest.raises(UserError, match=message):
        choose_precision(PretrainOptions(**given), device)


def test_float8_products_of_the_blocks(seed):
    """torchao computes the same rounding on any processor, if told to emulate."""
    pytest.importorskip("torchao")
    config = RhapsodeConfig.from_preset("llama2-7b-tiny", intermediate_size=176)
    model = RhapsodeForCausalLM(config).bfloat16()
    names, ids = [n for n, _ in model.named_parameters()], torch.randint(100, (2, 16))
    before = model(input_ids=ids).logits
    assert convert_to_fp8(model, emulate=True) == 2 * 7
    assert type(model.lm_head) is nn.Linear
    assert [n for n, _ in model.named_parameters()] == names
    after = model(input_ids=ids, labels=ids)
    error = (after.logits - before).norm() / before.norm()
    assert 0 < error < FLOAT8_TOLERANCE
    after.loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    narrow = RhapsodeForCausalLM(RhapsodeConfig.from_preset("llama2-7b-tiny", hidden_size=40, head_dim=10))
    with pytest.raises(UserError, match="multiples of 16"):
        convert_to_fp8(narrow, emulate=True)
