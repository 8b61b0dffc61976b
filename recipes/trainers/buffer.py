"""The rollout that is being learned from, and which rows of it come next.

Every epoch over it has an order of its own, drawn on each process from the generator whose state checkpoints hold. An
update is normalised by the number of its tokens on all processes, whichever micro-batch they are in, so that
accumulating gradients or adding processes does not change it:

    loss of a micro-batch = processes * sum over its tokens / tokens of the update        (DDP averages over processes)
"""

from collections.abc import Callable

import torch


class RolloutBuffer:
    """Counts micro-batches: `micro_batches` an epoch, `accumulation` of them an update, `epochs` a rollout."""

    def __init__(
        self, micro_batches: int, accumulation: int, epochs: int, total: Callable[[torch.Tensor], torch.Tensor]
    ):
        self.micro_batches, self.accumulation, self.epochs, self.total = micro_batches, accumulation, epochs, total
        self.step = 0  # micro-batches since the beginning of training, skipped ones included
        self.is_stopped = False  # the policy has gone too far from this rollout to learn more from it
        self.rollout: dict[str, torch.Tensor] | None = None
        self.order = self.tokens = torch.empty(0)

    @property
    def needs_rollout(self) -> bool:
        return self.rollout is None or self.step % (self.micro_batches * self.epochs) == 0

    @property
    def ends_update(self) -> bool:
        """Whether the micro-batch that was handed out last is the last one of its update."""
        return self.step % self.accumulation == 0

    def fill(self, rollout: dict[str, torch.Tensor]) -> None:
        self.rollout, self.is_stopped = rollout, False

    def skip(self) -> None:
        self.step += 1

    def next(self) -> dict:
        """The rows of the next micro-batch, without columns that none of them reaches, and `tokens` of its update."""
        place = self.step % self.micro_batches
        if place == 0:
            self._begin_epoch()
        rows = self.order.view(self.micro_batches, -1)[place]
        self.step += 1
        batch = {name: tensor[rows] for name, tensor in self.rollout.items()}
        width = int(batch["attention_mask"].sum(1).max())
        batch = {name: tensor[:, :width] for name, tensor in batch.items()}
        return batch | {"tokens": self.tokens[place // self.accumulation]}

    def _begin_epoch(self) -> None:
        mask = self.rollout["mask"]
        self.order = torch.randperm(len(mask), device="cpu").to(mask.device)
        updates = self.micro_batches // self.accumulation
        self.tokens = self.total(mask[self.order].view(updates, -1).sum(1)).clamp(min=1)

    def state(self) -> dict:
        """Everything, as tensors and numbers."""
        names = ("step", "is_stopped", "rollout", "order", "tokens")
        return {name: getattr(self, name) for name in names}

    def load(self, state: dict, device) -> None:
        self.step, self.is_stopped = state["step"], state["is_stopped"]
        self.rollout = {name: tensor.to(device) for name, tensor in state["rollout"].items()}
        self.order, self.tokens = state["order"].to(device), state["tokens"].to(device)
