"""Run by test_deepspeed.py as two processes: trains a model by itself and by ZeRO, and writes what came out.

zero_worker.py RANK DIRECTORY
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.data.tokens import IGNORED
from rhapsode.recipes.options.pretrain import PretrainOptions
from rhapsode.recipes.training import zero
from rhapsode.recipes.training.checkpoint import save_checkpoint
from rhapsode.recipes.training.gradients import clip_gradients
from rhapsode.recipes.training.loss import NextTokenLoss
from rhapsode.recipes.training.optimizers import build_optimizers
from rhapsode.recipes.training.partial import freeze
from rhapsode.recipes.training.state import collect, restore

STEPS, SKIPPED, SAVED, ROWS, LENGTH, LIMIT = 6, 1, 3, 4, 24, 0.5
FROZEN = "model.layers.0.*"


class Whole:
    """One process's own training on all rows, by torch."""

    share = (0, 1)

    def __init__(self, accelerator: Accelerator):
        torch.manual_seed(0)
        self.model = RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny")).train()
        freeze(self.model, [FROZEN])
        self.loss = NextTokenLoss(self.model, chunk=7)
        self.optimizers = build_optimizers(self.model, PretrainOptions(layer_lr_decay=0.9, weight_decay=0.2))

    def expect(self, is_last: bool) -> None:
        pass

    def norm(self) -> float:
        return clip_gradients(self.model, LIMIT).item()

    def backward(self, batch: dict, factor: float = 1.0) -> None:
        """In two forward passes, each on a part of this process's rows."""
        num_items = (batch["labels"][:, 1:] != IGNORED).sum()
        index, count = self.share
        rows = [batch["labels"].shape[0] // (2 * count) * i for i in range(2 * count + 1)]
        for i in range(2):
            first, last = rows[i * count + index], rows[i * count + index + 1]
            self.expect(i == 1)
            part = {key: value[first:last] for key, value in batch.items()}
            (self.loss(part, num_items) * count * factor).backward()

    def update(self) -> None:
        self.optimizers[0].step()
        self.optimizers[0].zero_grad()


class Zero(Whole):
    """The same in two processes."""

    def __init__(self, accelerator: Accelerator):
        super().__init__(accelerator)
        self.share = (accelerator.process_index, 2)
        self.loss, self.optimizers = zero.spread(self.loss, self.optimizers, LIMIT, accelerator)

    def expect(self, is_last: bool) -> None:
        self.loss.set_gradient_accumulation_boundary(is_last)

    def norm(self) -> float:
        return zero.gradient_norm(self.loss).item()


def batch_of(step: int) -> dict[str, torch.Tensor]:
    """Ragged: two of the rows have few targets."""
    ids = torch.randint(512, (ROWS, LENGTH), generator=torch.Generator().manual_seed(step))
    labels = ids.clone()
    labels[0, 3:], labels[1, 9:] = IGNORED, IGNORED
    return {"input_ids": ids, "labels": labels}


def go_on(training: Whole, steps: range, save: Path | None = None, is_main: bool = True) -> list[float]:
    """Norms of the gradients; a step is left out, as the guard does it, and one has no finite gradients."""
    norms = []
    for step in steps:
        if step == SAVED and save is not None:
            parts, rest = collect(training.model, training.optimizers, None)
            save_checkpoint(save, step, parts, rest, is_main=is_main)
            dist.barrier()
        training.backward(batch_of(step))
        norms.append(training.norm())
        training.optimizers[0].zero_grad() if step == SKIPPED else training.update()
        if step == SKIPPED:
            training.backward(batch_of(step), float("inf"))
            norms.append(training.norm())
            training.optimizers[0].zero_grad()
    return norms


def weights(training: Whole) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in training.model.named_parameters()}


def main(rank: int, directory: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", ACCELERATE_USE_CPU="true")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="1")  # asked for, and not used: they meet at a file
    dist.init_process_group("gloo", init_method=f"file://{directory / 'rendezvous'}", rank=rank, world_size=2)
    accelerator = Accelerator()
    zero.BUCKET = 5000  # less than some of the tensors have, and far less than all
    found = {}
    for name, kind in (("whole", Whole), ("zero", Zero)):
        training = kind(accelerator)
        is_main = rank == 0
        if name == "zero" or is_main:
            found[name, "norms"] = go_on(training, range(STEPS), directory / name if name == "zero" else None, is_main)
        found[name, "weights"] = weights(training)
    for name, kind in (("whole", Whole), ("zero", Zero)):  # from ZeRO's checkpoint
        training = kind(accelerator)
        restore(directory / "zero" / f"step-{SAVED:08d}", training.model, training.optimizers, None)
        found[name, "later norms"] = go_on(training, range(SAVED, STEPS))
        found[name, "later weights"] = weights(training)
    if rank == 0:
        torch.save(found, directory / "found.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
