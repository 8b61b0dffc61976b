"""When Liger's kernels are taken, and what they are asked; the kernels themselves need a GPU."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.training.liger import choose_liger
from rhapsode.recipes.training.loss import NextTokenLoss
from torch import nn
from torch.nn import functional as F

CPU, GPU = torch.device("cpu"), torch.device("cuda")
TOLERANCE = 1e-5  # float32; the multiplier is applied before the head in place of after it
OURS = SimpleNamespace(scale_logits=None)


def install(monkeypatch, is_installed: bool) -> None:
    find = importlib.util.find_spec
    spec = object() if is_installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "liger_kernel" else find(name))


@pytest.mark.parametrize("wanted", [None, True, False])
@pytest.mark.parametrize("device", [CPU, GPU], ids=str)
@pytest.mark.parametrize("is_installed", [True, False])
@pytest.mark.parametrize("model", [OURS, nn.Linear(2, 2)], ids=["ours", "other"])
def test_the_choice(wanted, device, is_installed, model, monkeypatch):
    install(monkeypatch, is_installed)
    possible = device == GPU and is_installed and model is OURS
    if wanted and not possible:
        with pytest.raises(UserError, match=r"--use_liger_kernel: .*; leave it out"):
            choose_liger(wanted, device, model)
    else:
        assert choose_liger(wanted, device, model) == (possible and wanted is not False)


@pytest.mark.parametrize(
    ("device", "is_installed", "reason"), [(CPU, True, "runs on a GPU"), (GPU, False, "pip install liger-kernel")]
)
def test_the_error_says_what_to_do(device, is_installed, reason, monkeypatch):
    install(monkeypatch, is_installed)
    with pytest.raises(UserError, match=reason):
        choose_liger(True, device, OURS)


def documented(input, weight, target, *, bias, lse_square_scale, reduction, softcap, return_z_loss, accum_dtype):
    """What liger_kernel 0.8 documents of its function, in plain torch."""
    assert (reduction, return_z_loss, accum_dtype) == ("sum", True, torch.float32)
    logits = F.linear(input, weight, bias)
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    z_loss = lse_square_scale * logits.logsumexp(-1).square().sum()
    return SimpleNamespace(loss=F.cross_entropy(logits, target, reduction="sum") + z_loss, z_loss=z_loss)


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"tie_word_embeddings": False, "lm_head_bias": True},
        {"logit_scale": 0.3, "final_logit_softcapping": 2.0, "lm_head_bias": True, "tie_word_embeddings": False},
    ],
    ids=["tied", "bias", "scaled"],
)
def test_what_it_is_asked_is_our_loss(switches, z_loss, monkeypatch, seed):
    functional = ModuleType("functional")
    functional.liger_fused_linear_cross_entropy = documented
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.functional", functional)
    model = RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny", **switches)).train()
    ids = torch.randint(100, (2, 20))
    found = []
    for use_liger in (True, False):
        model.zero_grad()
        loss = NextTokenLoss(model, z_loss=z_loss, use_liger=use_liger)({"input_ids": ids, "labels": ids}, ids.numel())
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    torch.testing.assert_close(*found, rtol=TOLERANCE, atol=TOLERANCE)
