"""ZeRO, stage 2: every process has all weights, and keeps a part of the gradients and of the optimizer (Rajbhandari et
al. 2020, arXiv:1910.02054).

    bytes a parameter, float32, AdamW, N processes:    ddp 16,    ZeRO-2 4 + 16 / N,    fsdp2 16 / N

DeepSpeed computes it: its engine stands between the loop and the loss, sums and spreads the gradients during the
backward pass, clips them and gathers the weights after the step. (16 / N: it keeps a second copy of its own part of the
weights.) Schedule, guard and checkpoints are the loop's, so that a checkpoint knows nothing of DeepSpeed either: any
other strategy and any number of processes goes on from it.
"""

import importlib.util
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import patch_environment
from torch import nn

from ..options.base import UserError
from ..options.pretrain import PretrainOptions

BUCKET = 2**26  # gradients or weights that are exchanged at once: 256 MiB
# What accelerate's configuration may ask for, by the environment variable that it becomes; whatever else is the loop's.
WISHES = {
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": ("zero_stage", "2", "set 2; fsdp2 spreads the weights as well, like stage 3"),
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": ("offload_optimizer_device", "none", "set none"),
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": ("offload_param_device", "none", "set none"),
    "ACCELERATE_DEEPSPEED_CONFIG_FILE": ("deepspeed_config_file", "none", "leave it out and set zero_stage: 2"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("gradient_accumulation_steps", "1", "leave it to the command's option"),
    "ACCELERATE_GRADIENT_CLIPPING": ("gradient_clipping", "none", "leave it to the command's --max_grad_norm"),
}


def check_wishes(options: PretrainOptions) -> None:
    """Before anything is made.

    Raises:
        UserError: DeepSpeed is not there, or it is asked for something that this loop does not do with it.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError("DeepSpeed is not installed: pip install 'rhapsode[deepspeed]', or use fsdp2")
    for variable, (name, allowed, fix) in WISHES.items():
        value = os.environ.get(variable, allowed)
        if value != allowed:
            raise UserError(f"{name} {value} of accelerate's DeepSpeed configuration: {fix}")
    if options.optim == "muon":
        raise UserError("--optim muon with DeepSpeed: it needs whole matrices, ZeRO has pieces; use adamw, or fsdp2")
    if options.pure_bf16:
        raise UserError("--pure_bf16 with DeepSpeed: its optimizer keeps float32 weights; leave it out, or use fsdp2")


def spread(
    loss: nn.Module, optimizers: list[torch.optim.Optimizer], limit: float, accelerator: Accelerator
) -> tuple[nn.Module, list]:
    """(the engine, to be called like the loss; its optimizer), from a loss on its device and its one optimizer.

    `limit` is the norm that gradients are clipped to, 0 for none.
    """
    (optimizer,) = optimizers
    deepspeed = _deepspeed(accelerator.device)
    loss.forward = _within(accelerator.autocast, loss.forward)
    size = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    config = {
        "train_micro_batch_size_per_gpu": 1,  # required, and of no consequence: the loop says where a step ends
        "gradient_accumulation_steps": 1,
        "gradient_clipping": limit,
        "zero_optimization": {
            "stage": 2,
            "reduce_bucket_size": min(BUCKET, size),
            "allgather_bucket_size": min(BUCKET, size),
        },
    }
    engine, *_ = deepspeed.initialize(model=loss, optimizer=optimizer, config=config, dist_init_required=False)
    return engine, [ZeroOptimizer(engine)]


def _deepspeed(device: torch.device):
    with patch_environment(DS_ACCELERATOR=device.type):  # it would take a GPU that the loop was told not to use
        import deepspeed
    from deepspeed.ops import __compatible_ops__ as operations
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    if device.type == "cpu":  # It would compile an exchange through shared memory, which takes minutes; gloo does it.
        operations["deepspeed_shm_comm"] = False
    return deepspeed


def _within(context: Callable, forward: Callable) -> Callable:
    """Autocast inside of the engine, which ends one that was begun outside."""

    def call(*inputs, **kwargs):
        with context():
            return forward(*inputs, **kwargs)

    return call


def gradient_norm(engine: nn.Module) -> torch.Tensor:
    """That of all gradients after the last backward pass of a step, the same on all processes."""
    norm = engine.optimizer.scaled_global_norm()
    return norm if norm >= 0 else torch.full_like(norm, torch.inf)  # -1: it is not finite


@dataclass(frozen=True)
class Spread:
    """A tensor of the optimizer, of which every process has a piece."""

    parameter: nn.Parameter
    key: str

    def full_tensor(self) -> torch.Tensor:
        """Float32, in the shape of the parameter; all processes must ask."""
        from deepspeed.utils import safe_get_full_optimizer_state

        return safe_get_full_optimizer_state(self.parameter, self.key)


class ZeroOptimizer:
    """DeepSpeed's optimizer, used and saved like torch's.

    A group of parameters is one flat tensor to it, of which each process has the optimizer of a part.
    """

    def __init__(self, engine: nn.Module):
        self.engine, self.zero = engine, engine.optimizer

    @property
    def param_groups(self) -> list[dict]:
        return self.zero.param_groups

    def step(self) -> None:
        """Clip the gradients and take the step; the weights are whole again afterwards."""
        self.engine.step()

    def zero_grad(self) -> None:
        self.zero.zero_grad()

    def _groups(self) -> list[tuple[dict, torch.Tensor, list[nn.Parameter]]]:
        """(the group, this process's part of its weights, the parameters) in the order of torch's optimizer."""
        pairs = zip(self.param_groups, self.zero.bit16_groups, strict=True)
        return [(group, group["params"][0], parameters) for group, parameters in pairs]

    def state_dict(self) -> dict:
        """torch's, as if each parameter had its own state, with `Spread` for what is in pieces."""
        state, groups, index = {}, [], 0
        for group, part, parameters in self._groups():
            entries = self.zero.optimizer.state.get(part, {})
            self._link(part, parameters)
            for i, p in enumerate(parameters, index) if entries else ():
                state[i] = {k: Spread(p, k) if v.shape == part.shape else v.clone() for k, v in entries.items()}
            groups.append(group | {"params": list(range(index, index + len(parameters)))})
            index += len(parameters)
        return {"state": state, "param_groups": groups}

    @torch.no_grad()
    def load(self, tensors: Iterable[tuple[str, torch.Tensor]], groups: list[dict]) -> None:
        """Go on from whole tensors by their names `index.key`, once the weights are what they were."""
        from deepspeed.utils import safe_set_full_optimizer_state

        self.zero.refresh_fp32_params()
        for group, saved in zip(self.param_groups, groups, strict=True):
            group.update(saved | {"params": group["params"]})
        owners = [(p, part, parameters) for _, part, parameters in self._groups() for p in parameters]
        for name, value in tensors:
            index, key = name.split(".", 1)
            p, part, parameters = owners[int(index)]
            if value.shape == p.shape:
                if key not in self.zero.optimizer.state[part]:
                    self.zero.optimizer.state[part][key] = torch.zeros_like(part)
                    self._link(part, parameters)
                safe_set_full_optimizer_state(p, value, key)
            else:  # the number of the step, which all of a group have in common
                self.zero.optimizer.state[part][key] = value.to(part.device)

    def _link(self, part: torch.Tensor, parameters: list[nn.Parameter]) -> None:
        """Tell each parameter where its state lies; by itself DeepSpeed does it for the first group only."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        lazy_init_hp_params_optimizer_state(parameters, part, self.zero.optimizer.state)
