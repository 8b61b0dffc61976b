"""Liger Kernel's fused head and cross entropy (Hsu et al. 2024, arXiv:2410.10989): the chunked loss on a GPU."""

import importlib.util

import torch

from ..options.base import UserError


def choose_liger(wanted: bool | None, device: torch.device, model: torch.nn.Module) -> bool:
    """Whether to take Liger's loss; `wanted=None` is wherever it can be.

    Raises:
        UserError: it is asked for and cannot be.
    """
    obstacles = {
        "it runs on a GPU": device.type != "cuda",
        "pip install liger-kernel": importlib.util.find_spec("liger_kernel") is None,
        f"{type(model).__name__} computes its loss itself": not hasattr(model, "scale_logits"),
    }
    obstacle = next((reason for reason, is_so in obstacles.items() if is_so), None)
    if wanted and obstacle:
        raise UserError(f"--use_liger_kernel: {obstacle}; leave it out to use the same loss in plain torch")
    return obstacle is None if wanted is None else wanted


def liger_loss(hidden, labels, weight, bias, config, z_loss: float) -> torch.Tensor:
    """As `loss.chunked_loss`. A multiplier of logits is one of hidden states and bias: both are linear."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    scale = config.logit_scale
    found = liger_fused_linear_cross_entropy(
        hidden * scale,
        weight,
        labels,
        bias=None if bias is None else bias * scale,
        lse_square_scale=z_loss,
        reduction="sum",
        softcap=config.final_logit_softcapping,
        return_z_loss=True,
        accum_dtype=torch.float32,
    )
    return found.loss - found.z_loss.detach()
