"""How tokens are drawn, with transformers' names: what all commands have in common that write text."""

import math
from dataclasses import dataclass

from .base import UserError, option


@dataclass
class SamplingOptions:
    model: str = option("runs/pretrain", "directory or Hub id", section="model")
    trust_remote_code: bool = option(False, "run the model code that the directory or repository brings")
    max_new_tokens: int = option(128, "tokens to write at most", section="sampling")
    temperature: float = option(0.8, "0 is greedy; below 1 sharpens, above 1 flattens the distribution")
    top_k: int = option(0, "draw from the k likeliest tokens; 0 is all")
    top_p: float = option(1.0, "draw from the likeliest tokens that together have this probability")
    min_p: float = option(0.0, "leave out tokens below this share of the likeliest one's probability")
    repetition_penalty: float = option(1.0, "above 1 makes tokens that were there less likely")
    seed: int | None = option(None, "of the draws; none is a new one each time")

    def __post_init__(self):
        self._check_range("max_new_tokens", 1)
        self._check_range("temperature", 0)
        self._check_range("top_k", 0)
        self._check_range("top_p", 0, 1)
        self._check_range("min_p", 0, 1)
        if self.top_p == 0:
            raise UserError("--top_p 0 leaves no token to draw; use 1 for all")
        self._check_range("seed", 0, 2**32 - 1)
        if not 0 < self.repetition_penalty < math.inf:
            raise UserError(f"--repetition_penalty {self.repetition_penalty} must be above 0, and finite; 1 is off")

    def _check_range(self, name: str, low: int, high: int | None = None) -> None:
        value = getattr(self, name)
        if value is not None and (not low <= value < math.inf or (high is not None and value > high)):
            bound = f"{low} or more" if high is None else f"from {low} to {high}"
            raise UserError(f"--{name} {value} must be {bound}")
