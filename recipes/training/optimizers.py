"""Optimizers.

AdamW   Loshchilov and Hutter 2019, arXiv:1711.05101, fused where torch has a kernel.
Muon    Jordan et al. 2024, kellerjordan.github.io/posts/muon, for the matrices inside the blocks: see `muon.py`.
        Embeddings, head, norms, biases and stacked experts keep AdamW.
"""

import torch
from torch import nn

from ..options.pretrain import PretrainOptions
from .gradients import mesh_of
from .muon import Muon
from .parameters import block_matrices
from .partial import rate_factors


def build_optimizers(model: nn.Module, options: PretrainOptions) -> list[torch.optim.Optimizer]:
    """One optimizer, or two with Muon. Matrices decay, everything else does not; frozen parameters are left out.

    Call it after wrapping, on the module inside the wrapper. Groups and their parameters are in the order of the
    model's parameters, so that the same options give the same `state_dict`.
    """
    matrices, factors = block_matrices(model), rate_factors(model, options)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for_muon = [n for n in trained if options.optim == "muon" and n in matrices and trained[n].dim() == 2]
    decaying = [n for n in trained if n in matrices and n not in for_muon]
    plain = [n for n in trained if n not in matrices]
    muon = _groups(for_muon, trained, factors, options.muon_learning_rate, options.weight_decay)
    adamw = _groups(decaying, trained, factors, options.learning_rate, options.weight_decay)
    adamw += _groups(plain, trained, factors, options.learning_rate, 0.0)
    optimizers = [Muon(muon)] if muon else []
    if adamw:
        optimizers.append(torch.optim.AdamW(adamw, betas=(options.adam_beta1, options.adam_beta2), fused=True))
    return optimizers


def _groups(names: list[str], parameters: dict, factors: dict, rate: float, weight_decay: float) -> list[dict]:
    """One group for each factor on the rate; `peak_lr` is what the schedule takes its share of.

    Tensors that are sharded differently are in different groups: the fused kernels cannot take them together.
    """
    groups = {}
    for name in names:
        groups.setdefault((factors[name], mesh_of(parameters[name])), []).append(parameters[name])
    return [
        {"params": group, "lr": rate * factor, "peak_lr": rate * factor, "weight_decay": weight_decay}
        for (factor, _), group in groups.items()
    ]


def set_learning_rate(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Every group's rate becomes this share of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
