"""Which parameter is what: the blocks of a model, the matrices inside them, the weight of the head, and patterns.

Optimizers, the count of arithmetic, frozen parts, recomputation and compilation all ask here. It works on any model of
transformers, and as well after `fully_shard`, which keeps names and parameters' shapes and renames the classes.
"""

import fnmatch
from collections.abc import Iterable
from difflib import get_close_matches

from torch import nn

from ..options.base import UserError


def head_weight(model: nn.Module) -> nn.Parameter | None:
    """The (V, D) weight that makes logits, which may be that of the embedding; none where there is no head."""
    find = getattr(model, "get_output_embeddings", None)
    return getattr(find(), "weight", None) if find else None


def block_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The matrices of the blocks, by name: what decays, what Muon trains, and what multiplies every token.

    All parameters of two dimensions or more that are neither tables of embeddings nor the head; recurrent weights are
    matrices, and so are the stacked ones of experts.
    """
    others = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)} | {id(head_weight(model))}
    return {name: p for name, p in model.named_parameters() if p.dim() >= 2 and id(p) not in others}


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The repeated blocks, by name, from the embedding to the head; none for a model without them, such as an LSTM."""
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    lists = {id(m) for parent in model.modules() if isinstance(parent, nn.ModuleList) for m in parent}
    return {
        name: m
        for name, m in model.named_modules()
        if id(m) in lists and kinds & {c.__name__ for c in type(m).__mro__}  # FSDP2 makes subclasses
    }


def all_names(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter under each of its names: a tied head is `lm_head.weight` and `model.embed_tokens.weight`."""
    return dict(model.named_parameters(remove_duplicate=False))


def matching(model: nn.Module, pattern: str, option: str) -> set[int]:
    """The `id` of each parameter with a name that the pattern (of the shell's kind: * ? [0-3]) fits.

    Raises:
        UserError: it fits none; the nearest name is given.
    """
    names = all_names(model)
    found = {id(p) for name, p in names.items() if fnmatch.fnmatchcase(name, pattern)}
    if not found:
        raise UserError(f"--{option} {pattern!r} fits no parameter; {_nearest(pattern, names)}")
    return found


def _nearest(pattern: str, names: Iterable[str]) -> str:
    names = list(names)
    nearest = get_close_matches(pattern, names, n=1, cutoff=0.3) or names[:1]
    return f"the nearest one is {nearest[0]}"
