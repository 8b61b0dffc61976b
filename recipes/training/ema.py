"""An exponential moving average of the weights, which is often a better model than the last weights are.

    d_t = min(decay, (1 + t) / (10 + t));   S_t = d_t S_{t-1} + (1 - d_t) W_t,   t = 0, 1, ... updates before this one

Polyak and Juditsky 1992; the warm-up of the decay forgets the random start soon, in place of a bias correction. The
average is held in float32 whatever the weights are: at a decay of 0.9999 bfloat16 would lose every update. All of it is
elementwise, so that sharded weights (FSDP2) have sharded averages.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class WeightAverage:
    """Build it after wrapping, from the module inside the wrapper. Frozen parameters are left alone."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.average = {name: p.detach().float().clone() for name, p in _trained(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take up the weights as they are after a step."""
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, p in _trained(model):
            self.average[name].lerp_(p.float(), weight)

    @contextmanager
    @torch.no_grad()
    def in_place_of_weights(self, model: nn.Module) -> Iterator[None]:
        """The model has the average within, and its own weights, to the bit, afterwards."""
        own = {name: p.detach().clone() for name, p in _trained(model)}
        try:
            for name, p in _trained(model):
                p.copy_(self.average[name])
            yield
        finally:
            for name, p in _trained(model):
                p.copy_(own[name])

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint saves, beside `updates`; the tensors are those that `update` changes."""
        return self.average

    @torch.no_grad()
    def load(self, tensors: dict[str, torch.Tensor], updates: int) -> None:
        """Go on from what `tensors` and `updates` were."""
        if tensors.keys() != self.average.keys():
            different = sorted(tensors.keys() ^ self.average.keys())
            raise ValueError(f"average of other parameters: {', '.join(different[:3])} ...; was --freeze changed?")
        for name, average in self.average.items():
            average.copy_(tensors[name])
        self.updates = updates


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)
