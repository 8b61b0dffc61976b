"""Training a part of a model, or its parts at different rates.

Layer-wise rates: the head learns at the full rate, a block at `layer_lr_decay` times the rate of what comes after it,
the embeddings at the lowest (Howard and Ruder 2018, arXiv:1801.06146; Clark et al. 2020, arXiv:2003.10555). A tied
head is the embedding, and has its rate. Factors by pattern come on top; where several fit, all of them do.
"""

from torch import nn

from ..options.base import UserError
from ..options.pretrain import PretrainOptions
from .parameters import blocks, matching


def freeze(model: nn.Module, patterns: list[str]) -> int:
    """Parameters that fit a pattern get no gradient; the number of frozen elements. Before optimizers and wrappers.

    A tied weight is frozen under whichever of its names.

    Raises:
        UserError: a pattern that fits nothing, or nothing left to train.
    """
    frozen = {found for pattern in patterns for found in matching(model, pattern, "freeze")}
    for p in model.parameters():
        if id(p) in frozen:
            p.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError(f"--freeze {' '.join(patterns)} leaves nothing to train")
    return sum(p.numel() for p in model.parameters() if id(p) in frozen)


def rate_factors(model: nn.Module, options: PretrainOptions) -> dict[str, float]:
    """The factor on the learning rate of each parameter, by the names of `named_parameters`.

    Raises:
        UserError: a pattern that fits nothing, a factor that is none, a decay for a model without blocks.
    """
    factors = _by_depth(model, options.layer_lr_decay)
    for item in options.lr_multipliers:
        pattern, factor = _parse(item)
        for found in matching(model, pattern, "lr_multipliers"):
            factors[found] *= factor
    return {name: factors[id(p)] for name, p in model.named_parameters()}


def _parse(item: str) -> tuple[str, float]:
    pattern, separator, text = item.rpartition("=")
    try:
        factor = float(text)
    except ValueError:
        factor = -1.0
    if not separator or not 0 <= factor < float("inf"):
        raise UserError(f"--lr_multipliers {item!r} is not of the form pattern=factor, with a factor of 0 or more")
    return pattern, factor


def _by_depth(model: nn.Module, decay: float) -> dict[int, float]:
    """decay ** (how far below the head), by `id`: 0 for what comes after the blocks, L + 1 for what comes before."""
    if decay == 1.0:
        return {id(p): 1.0 for p in model.parameters()}
    stack = blocks(model)
    if not 0 < decay <= 1:
        raise UserError(f"--layer_lr_decay {decay} must be above 0 and at most 1")
    if not stack:
        raise UserError(f"--layer_lr_decay {decay}: {type(model).__name__} has no blocks; use --lr_multipliers")
    below = {id(p): len(stack) - i for i, block in enumerate(stack.values()) for p in block.parameters()}
    depth = len(stack) + 1
    for p in model.parameters():  # in the order of the layers
        if id(p) in below:
            depth = 0
        below.setdefault(id(p), depth)
    return {key: decay**steps for key, steps in below.items()}
