"""The peer in training: the family's own class in transformers' Trainer, driven from inside its own loop.

A callback at the end of each step hands the turn back, so that a unit is all that the Trainer does from the end of one
step to the end of the next: loader, forward and backward pass, clipping, optimizer, schedule and bookkeeping.
"""

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from .training import WARM_UPS
from .turns import Clock, Turns

ENDLESS = 10**6  # steps; the conductor says when it is over


class RowsInOrder(Dataset):
    """Row n modulo their number, as Rhapsode's loop takes them."""

    def __init__(self, path: str):
        self.ids = np.load(path)

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> dict:
        row = torch.from_numpy(self.ids[index % len(self.ids)])
        return {"input_ids": row, "labels": row}


class OrderedTrainer(Trainer):
    """Its sampler draws in order: the rows were shuffled beforehand, for all alike."""

    def _get_train_sampler(self, train_dataset=None):
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def training_step(self, *args, **kwargs):
        self.last_loss = super().training_step(*args, **kwargs)  # a tensor: reading it is for the callback
        return self.last_loss


class StepByStep(TrainerCallback):
    """Waits at the end of each step until it is told to do the next."""

    def __init__(self, turns: Turns):
        self.turns, self.trainer, self.losses, self.clock = turns, None, [], None

    def on_step_end(self, args, state, control, **kwargs):
        loss = self.trainer.last_loss.item()
        if state.global_step < WARM_UPS:
            self.losses.append(loss)
            return control
        if state.global_step == WARM_UPS:
            self.turns.ready(losses=[*self.losses, loss], attention=self.trainer.model.config._attn_implementation)
        else:
            self.turns.done(**self.clock.read(), loss=loss)
        if self.turns.wait() is None:
            control.should_training_stop = True
        self.clock = Clock()
        return control


def arguments_of(output_dir: str, batch: int, seed: int, **others) -> TrainingArguments:
    """Defaults, but for what decides the work: the batch, a constant rate, and nothing that is written."""
    return TrainingArguments(
        output_dir=output_dir,
        per_device_train_batch_size=batch,
        lr_scheduler_type="constant",
        report_to="none",
        seed=seed,
        use_cpu=not torch.accelerator.is_available(),
        **{"save_strategy": "no", "max_steps": ENDLESS} | others,
    )


def train(
    turns: Turns, model: str, rows: str, bf16: bool, compiled: bool, output_dir: str, batch: int, length: int, seed: int
) -> None:
    """A unit is a step: with neither bfloat16 autocast nor compilation it is what `TrainingArguments()` gives."""
    callback = StepByStep(turns)
    callback.trainer = OrderedTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=arguments_of(output_dir, batch, seed, bf16=bf16, torch_compile=compiled),
        train_dataset=RowsInOrder(rows),
        callbacks=[callback],
    )
    callback.trainer.train()
