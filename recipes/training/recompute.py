"""Activation checkpointing: some blocks keep only their input and compute the rest once more in the backward pass.

Chen et al. 2016, arXiv:1604.06174. With all of L blocks recomputed, a step takes about a third more time, and keeps L
inputs and one block's activations; recomputing every n-th block costs an n-th of the time and saves that much less.
"""

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ..options.base import UserError
from ..options.pretrain import PretrainOptions
from .parameters import blocks


def recompute_blocks(model: nn.Module, options: PretrainOptions) -> None:
    """Switch it on as the options say, on any causal language model of transformers. Before compiling and wrapping.

    Raises:
        UserError: a policy without checkpointing, or a model that cannot.
    """
    every = options.gradient_checkpointing_every
    if every < 1:
        raise UserError(f"--gradient_checkpointing_every {every} must be above 0")
    if not options.gradient_checkpointing:
        if every > 1:
            raise UserError(f"--gradient_checkpointing_every {every} without --gradient_checkpointing: add it")
        return
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise UserError(f"--gradient_checkpointing: {type(model).__name__} cannot recompute; leave it out")
    # The first is the newer name; its own argument for every n-th layer is unknown to older versions.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model.disable_input_require_grads()  # for the reentrant kind; here it would go down into frozen embeddings
    if every == 1:
        return
    stack = list(blocks(model).values())
    if not stack or not all(isinstance(block, GradientCheckpointingLayer) for block in stack):
        raise UserError(f"--gradient_checkpointing_every {every}: {type(model).__name__} recomputes all blocks or none")
    for i, block in enumerate(stack):
        block.gradient_checkpointing = i % every == 0
