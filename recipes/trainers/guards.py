"""What keeps a step from being made, or a run from going on.

A step whose gradients are not finite is left out on all processes: gradients that are None move neither weights nor the
moments of Adam. Under fp16 that is the loss scaler's task; DeepSpeed makes its step inside the backward pass, where
nothing can be taken back.
"""

import torch
from torch import nn
from transformers import TrainerCallback

from ..training.guard import Guard


class StepGuard(TrainerCallback):
    """`max_skipped` steps may be left out. `end_training` makes the current step the last one, and leaves it out."""

    def __init__(self, max_skipped: int, fp16: bool):
        self.guard = Guard(spike_threshold=0, max_skipped=max_skipped)
        self.fp16, self.must_end = fp16, False

    @property
    def skipped(self) -> int:
        return self.guard.skipped

    def end_training(self) -> None:
        self.must_end = True

    def on_pre_optimizer_step(self, args, state, control, model: nn.Module = None, **kwargs):
        if self.must_end or not self._accepts(state.global_step, model):
            model.zero_grad(set_to_none=True)

    def on_step_end(self, args, state, control, **kwargs):
        if self.must_end:
            control.should_training_stop, self.must_end = True, False

    def _accepts(self, step: int, model: nn.Module) -> bool:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if self.fp16 or not gradients:
            return True
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if torch.distributed.is_initialized():  # FSDP1 has other gradients on each process
            torch.distributed.all_reduce(norm, torch.distributed.ReduceOp.SUM)
        return self.guard.accepts(step, 0.0, norm.item())
