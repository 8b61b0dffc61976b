"""How much arithmetic a step is, how long the rest takes, and the progress bar."""

import sys
import time
from contextlib import contextmanager

from tqdm import tqdm

from .parameters import block_matrices, head_weight


def flops_per_token(model, length: int) -> float:
    """Floating-point operations of training on one token: forward and backward.

    6 for each parameter of a matrix product, and 6 L H C T for causal attention (Chowdhery et al. 2022, appendix B,
    counts 12 without the mask). Embedding look-ups and norms are left out. A model without attention (a recurrent or
    feed-forward one) has only the first term.
    """
    return 6 * (matrix_parameters(model) + _attention_products(model.config, length))


def matrix_parameters(model) -> int:
    """How many parameters multiply every token: the matrices of the blocks, and the head, also where it is tied."""
    head = head_weight(model)
    return sum(p.numel() for p in block_matrices(model).values()) + (0 if head is None else head.numel())


def _attention_products(config, length: int) -> int:
    """L H C T, or 0 without attention."""
    heads = getattr(config, "num_attention_heads", None)
    if not heads:
        return 0
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return config.num_hidden_layers * heads * width * length


class Stopwatch:
    """Seconds spent on what is not training, by kind, over all parts of a run.

        with stopwatch("eval"): ...        then row | stopwatch.row()      ->  {"eval_seconds": ...}

    Pass `MetricsLog.last` to go on from the figures of the run that is resumed.
    """

    def __init__(self, before: dict | None = None):
        kinds = ("eval", "checkpoint")
        self.seconds = {kind: (before or {}).get(f"{kind}_seconds") or 0.0 for kind in kinds}

    @contextmanager
    def __call__(self, kind: str):
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] = self.seconds.get(kind, 0.0) + time.perf_counter() - start

    def row(self) -> dict[str, float]:
        return {f"{kind}_seconds": seconds for kind, seconds in self.seconds.items()}


def progress_bar(total: int, initial: int, enabled: bool) -> tqdm:
    """Drawn ten times a second where somebody watches, and in a file, where each is a line, twice a minute."""
    seconds = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(
        total=total,
        initial=initial,
        desc="training",
        unit="step",
        disable=not enabled,
        dynamic_ncols=True,
        mininterval=seconds,
    )
