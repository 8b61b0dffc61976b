"""Optimizers and learning-rate schedules.

AdamW   Loshchilov and Hutter 2019, arXiv:1711.05101, fused where torch has a kernel.
Muon    Jordan et al. 2024, kellerjordan.github.io/posts/muon: momentum, orthogonalised by a Newton-Schulz iteration;
        for the matrices inside the blocks, torch's implementation. Embeddings, head, norms and biases keep AdamW.
WSD     warm-up, stable, decay: Hu et al. 2024, arXiv:2404.06395.
"""

import math

import torch
from torch import nn

from ..options.pretrain import PretrainOptions


def build_optimizers(model: nn.Module, options: PretrainOptions) -> list[torch.optim.Optimizer]:
    """One optimizer, or two with Muon. Matrices decay, everything else does not."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    tables.add(id(model.get_output_embeddings().weight))
    matrices = [p for p in named.values() if p.dim() == 2 and id(p) not in tables]
    others = [p for p in named.values() if not (p.dim() == 2 and id(p) not in tables)]
    adamw = {"lr": options.learning_rate, "betas": (options.adam_beta1, options.adam_beta2), "fused": True}
    plain = {"params": others, "weight_decay": 0.0}
    if options.optim == "adamw":
        groups = [{"params": matrices, "weight_decay": options.weight_decay}, plain]
        optimizers = [torch.optim.AdamW(groups, **adamw)]
    else:
        muon = torch.optim.Muon(matrices, lr=options.muon_learning_rate, weight_decay=options.weight_decay)
        optimizers = [muon, torch.optim.AdamW([plain], **adamw)]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def set_learning_rate(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Every group's rate becomes this share of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share


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
