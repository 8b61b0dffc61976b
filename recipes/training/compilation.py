"""torch.compile, by regions or whole.

Regional: the blocks are compiled, and as they are alike, the first one's code serves all of them: start-up takes a
fraction of a whole model's, for about the same speed. Modules are compiled in place, so that names stay as
they are and FSDP2, which comes after, hooks into each block.
"""

import os
import shutil

import torch
from torch import nn

from ..options.base import UserError
from ..options.pretrain import PretrainOptions
from .parameters import blocks


def compile_loss(loss: nn.Module, options: PretrainOptions, device: torch.device) -> None:
    """Compile `loss`, a NextTokenLoss, as the options say. After recomputation is switched on, before wrapping.

    Raises:
        UserError: no compiler for this device, or regional for a model without blocks.
    """
    if not options.torch_compile:
        return
    check_compiler(device)
    if options.torch_compile_scope == "whole":
        loss.compile()
        return
    stack = blocks(loss.model)
    if not stack:
        raise UserError(f"--torch_compile: {type(loss.model).__name__} has no blocks; add --torch_compile_scope whole")
    for block in stack.values():
        block.compile()


def check_compiler(device: torch.device) -> None:
    """
    Raises:
        UserError: code for this device cannot be compiled on this machine.
    """
    compiler = os.environ.get("CXX") or "g++"
    if device.type == "cpu" and not (shutil.which(compiler) or shutil.which("clang++")):
        raise UserError(f"--torch_compile needs a C++ compiler on a CPU, and there is no {compiler}; install one")
