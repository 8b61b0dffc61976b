"""What changes with the step: the learning rate and the size of the batch. Pure functions: a run resumes exactly.

WSD     warm-up, stable, decay: Hu et al. 2024, arXiv:2404.06395.
Batch   grows with the step (Smith et al. 2018, arXiv:1711.00489; Brown et al. 2020, arXiv:2005.14165): while
        gradients are large against their noise, small batches learn as much a step. It grows by whole forward passes,

            passes(step) = 1 + floor((A - 1) step / W) before step W, and A from there on.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..options.base import UserError
from ..options.pretrain import PretrainOptions


def learning_rate_share(options: PretrainOptions, step: int, total_steps: int, progress: float) -> float:
    """The share of the peak rate for the step after `step` others.

    `progress`, 0 to 1, is how much of the run is over; it is `step / total_steps` unless time runs out first.
    """
    if step > 0 and progress > 0:
        total_steps = step / progress  # as many as there is time for
    warmup = options.warmup_steps if options.warmup_steps >= 1 else options.warmup_steps * total_steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if options.lr_scheduler_type == "constant":
        return 1.0
    if options.lr_scheduler_type == "wsd":
        return 1.0 if options.decay_share == 0 else min(1.0, (1 - progress) / options.decay_share)
    begin = min(warmup / total_steps, 1.0)
    done = 1.0 if begin == 1.0 else min(max((progress - begin) / (1 - begin), 0.0), 1.0)
    fall = 0.5 * (1 + math.cos(math.pi * done)) if options.lr_scheduler_type == "cosine" else 1 - done
    return options.min_lr_ratio + (1 - options.min_lr_ratio) * fall


@dataclass(frozen=True)
class BatchSchedule:
    """Rows of the training data by step; `rows_per_pass` is the rows of one forward pass on all processes together."""

    rows_per_pass: int
    full: int
    warmup_steps: int = 0

    @classmethod
    def of(cls, options: PretrainOptions, num_processes: int) -> "BatchSchedule":
        """As the options say.

        Raises:
            UserError: a warm-up of a batch that is one forward pass.
        """
        full, warmup = options.gradient_accumulation_steps, options.batch_warmup_steps
        if warmup < 0:
            raise UserError(f"--batch_warmup_steps {warmup} must not be negative")
        if warmup and full == 1:
            raise UserError(
                f"--batch_warmup_steps {warmup} with --gradient_accumulation_steps 1: the batch cannot be smaller "
                f"than one forward pass; accumulate more, with a smaller --per_device_train_batch_size"
            )
        return cls(options.per_device_train_batch_size * num_processes, full, warmup)

    def passes(self, step: int) -> int:
        """Forward passes, on each process, of the step after `step` others."""
        return self.full if step >= self.warmup_steps else 1 + (self.full - 1) * step // self.warmup_steps

    def rows(self, step: int) -> int:
        return self.passes(step) * self.rows_per_pass

    def rows_before(self, step: int) -> int:
        """Rows of all steps before this one: where it begins in the data."""
        warm = min(step, self.warmup_steps)
        return (int(self._warmup_passes[warm]) + (step - warm) * self.full) * self.rows_per_pass

    def steps_within(self, rows: float) -> int:
        """The most steps that take no more than so many rows, and at least 1."""
        passes = int(rows // self.rows_per_pass)
        warmup_total = int(self._warmup_passes[-1])
        if passes >= warmup_total:
            return max(1, self.warmup_steps + (passes - warmup_total) // self.full)
        return max(1, bisect_right(self._warmup_passes, passes) - 1)

    @cached_property
    def _warmup_passes(self) -> np.ndarray:
        """Passes before each step of the warm-up, and before the one after it."""
        passes = 1 + (self.full - 1) * np.arange(self.warmup_steps, dtype=np.int64) // max(self.warmup_steps, 1)
        return np.concatenate([[0], np.cumsum(passes)]).astype(np.int64)
