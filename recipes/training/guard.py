"""A guard before the optimizer: a step whose loss or gradient norm is a spike, or not finite, is left out.

    x is a spike  <=>  x > median + k max(1.4826 MAD, median / 100)      over the last accepted steps

The median and the median absolute deviation do not notice the outliers that they are to find; 1.4826 makes the latter a
standard deviation for normal noise. The floor keeps a very quiet run from calling noise a spike. Spikes of the loss
in large runs were cured by leaving out the batches around them (Chowdhery et al. 2022, arXiv:2204.02311, section 5.1).
"""

import math
from collections import deque
from statistics import median

from ..options.base import UserError

WINDOW = 128  # accepted steps that a new one is compared with
FEWEST = 16  # before there are so many, only what is not finite is left out
FLOOR = 0.01  # least deviation, as a share of the median


class Guard:
    """Decides on each step; `spike_threshold` is k, 0 for none, and `max_skipped` the most steps of a run left out.

    It is given numbers that are the same on all processes, and so decides the same on all of them.
    """

    def __init__(self, spike_threshold: float, max_skipped: int):
        self.spike_threshold, self.max_skipped, self.skipped = spike_threshold, max_skipped, 0
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.norms: deque[float] = deque(maxlen=WINDOW)

    def accepts(self, step: int, loss: float, grad_norm: float) -> bool:
        """Whether to apply the gradients of the step after `step` others.

        Raises:
            UserError: more steps than `max_skipped` were left out.
        """
        reason = self._fault("loss", loss, self.losses) or self._fault("gradient norm", grad_norm, self.norms)
        if reason is None:
            self.losses.append(loss)
            self.norms.append(grad_norm)
            return True
        self.skipped += 1
        if self.skipped > self.max_skipped:
            raise UserError(
                f"step {step}: {reason}; {self.skipped} steps were skipped, more than --max_skipped_steps "
                f"{self.max_skipped}: lower the learning rate in a new run, or --resume with a higher limit"
            )
        return False

    def _fault(self, name: str, value: float, history: deque[float]) -> str | None:
        if not math.isfinite(value):
            return f"the {name} is {value}"
        if self.spike_threshold == 0 or len(history) < FEWEST:
            return None
        middle = median(history)
        deviation = max(1.4826 * median(abs(x - middle) for x in history), FLOOR * middle)
        if value <= middle + self.spike_threshold * deviation:
            return None
        return f"the {name} is {value:.4g}, {(value - middle) / deviation:.1f} deviations above {middle:.4g}"

    def state(self) -> dict:
        """What a checkpoint saves: JSON holds it without loss."""
        return {"skipped": self.skipped, "losses": list(self.losses), "norms": list(self.norms)}

    def load(self, state: dict) -> None:
        self.skipped = state["skipped"]
        self.losses.extend(state["losses"])
        self.norms.extend(state["norms"])
