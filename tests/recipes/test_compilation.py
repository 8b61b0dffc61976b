"""torch.compile in place: one graph for all blocks, the same numbers, names as they were."""

import shutil

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.options.pretrain import PretrainOptions
from rhapsode.recipes.training.compilation import compile_loss
from rhapsode.recipes.training.loss import NextTokenLoss
from rhapsode.recipes.training.recompute import recompute_blocks
from torch import nn
from torch._dynamo.testing import CompileCounter

CPU = torch.device("cpu")
TOLERANCE = 1e-5  # fused kernels add in another order, in float32
LAYERS = 5


def gradients(loss: NextTokenLoss) -> list[torch.Tensor]:
    loss.zero_grad()
    ids = torch.arange(40).view(2, 20)
    value = loss({"input_ids": ids, "labels": ids}, torch.tensor(38))
    value.backward()
    return [value.detach(), *(p.grad.clone() for p in loss.parameters())]


def compare(scope: str, checkpointing: bool) -> None:
    torch.compiler.reset()
    config = RhapsodeConfig.from_preset("rhapsode-10m-tiny", num_hidden_layers=LAYERS)
    loss = NextTokenLoss(RhapsodeForCausalLM(config).train())
    expected, names = gradients(loss), [name for name, _ in loss.named_parameters()]
    options = PretrainOptions(
        torch_compile=True, torch_compile_scope=scope, gradient_checkpointing=checkpointing, bf16=False
    )
    recompute_blocks(loss.model, options)
    compile_loss(loss, options, CPU)
    assert [name for name, _ in loss.named_parameters()] == names
    torch.testing.assert_close(gradients(loss), expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_one_graph_serves_all_blocks(checkpointing, monkeypatch, seed):
    """Traced as for the real compiler, which takes long; it is replaced by one that counts what it is given."""
    counter, compile_module = CompileCounter(), nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_module(self, backend=counter))
    compare("regional", checkpointing)
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["regional", "whole"])
def test_the_real_compiler(scope, seed):
    compare(scope, checkpointing=False)


def test_off_is_off():
    loss = NextTokenLoss(nn.Linear(2, 2))
    compile_loss(loss, PretrainOptions(), CPU)
    assert loss._compiled_call_impl is None


def test_what_cannot_be_is_refused(monkeypatch):
    options = PretrainOptions(torch_compile=True)
    with pytest.raises(UserError, match="Linear has no blocks; add --torch_compile_scope whole"):
        compile_loss(NextTokenLoss(nn.Linear(2, 2)), options, CPU)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler on a CPU"):
        compile_loss(NextTokenLoss(nn.Linear(2, 2)), options, CPU)
