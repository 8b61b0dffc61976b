"""How far a step moves the weights.

    update norm = ||w_after - w_before||,   update ratio = ||w_after - w_before|| / ||w_before||

Kaiming-like rules of thumb want a ratio of about 1e-3; far above it the rate is too high, far below too low. The norms
are over all trainable parameters and all processes. A copy of every weight would cost as much memory as the weights do:
we copy at most `SAMPLE` values, spread evenly over every tensor, and scale each tensor's sum of squares to its size.
Models up to that size are measured exactly; above it the norm of a sample is off by about 1 / sqrt(2 SAMPLE) = 0.03%
where the changes of a tensor are of like size.
"""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Partial, Replicate

SAMPLE = 2**22  # values a process: 16 MiB in float32


class UpdateProbe:
    """`before = probe.take()`, then the optimizer's step, then `probe.compare(before)`.

    Parameters that are sharded (FSDP2, tensor parallel) are measured shard by shard and summed over the processes that
    hold different shards: every process must make both calls.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], sample: int = SAMPLE):
        self.parameters = [p for p in parameters if p.requires_grad]
        self.sample = sample

    def take(self) -> list[torch.Tensor]:
        """Copies of the sampled values."""
        size = sum(_local(p).numel() for p in self.parameters)
        self.stride = max(1, math.ceil(size / self.sample))
        return [self._values(p).to(torch.float32, copy=True) for p in self.parameters]

    def compare(self, before: list[torch.Tensor]) -> dict[str, float]:
        """`update_norm` and `update_ratio`; nothing where the weights are out of sight (ZeRO-3)."""
        squares = defaultdict(list)  # of the changes and of the weights, by how the tensor is laid out
        for parameter, old in zip(self.parameters, before, strict=True):
            if old.numel():
                scale = _local(parameter).numel() / old.numel()
                change = self._values(parameter).float() - old
                pair = torch.stack([change.square().sum(), old.square().sum()]) * scale
                squares[_layout(parameter)].append(pair)
            else:
                squares[_layout(parameter)]  # an empty shard takes part in the sum over processes
        totals = [_over_processes(layout, pairs) for layout, pairs in squares.items()]
        update, weights = sum(totals, torch.zeros(2)).sqrt().tolist()
        return {"update_norm": update, "update_ratio": update / weights} if weights else {}

    def _values(self, parameter: nn.Parameter) -> torch.Tensor:
        values = _local(parameter).detach().reshape(-1)
        stride = self.stride
        while stride > 1 and math.gcd(stride, parameter.shape[-1] if parameter.dim() else 1) > 1:
            stride += 1  # a stride that divides a row would see the same columns of all rows
        return values[::stride]


def _local(parameter: nn.Parameter) -> torch.Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def _layout(parameter: nn.Parameter):
    return (parameter.device_mesh, tuple(parameter.placements)) if isinstance(parameter, DTensor) else None


def _over_processes(layout, pairs: list[torch.Tensor]) -> torch.Tensor:
    """The sum of this process's pairs, and of those of the processes that hold other shards."""
    if layout is None:
        return torch.stack(pairs).sum(0).cpu() if pairs else torch.zeros(2)
    mesh, placements = layout
    local = torch.stack(pairs).sum(0) if pairs else torch.zeros(2, device=mesh.device_type)
    kinds = [Replicate() if placement.is_replicate() else Partial() for placement in placements]
    return DTensor.from_local(local, mesh, kinds, run_check=False).full_tensor().cpu()
