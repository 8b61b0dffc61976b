"""Muon: momentum, made orthogonal, for matrices.

    M = mu M + (1 - mu) G;   U = (1 - mu) G + mu M;   O = NewtonSchulz(U)
    W = (1 - eta lambda) W - eta sqrt(max(1, rows / columns)) O

Jordan et al. 2024, kellerjordan.github.io/posts/muon. It is torch's optimizer, with its settings and its state; the
step is ours, for two reasons:

- torch computes the iteration in bfloat16. Where a processor has no such arithmetic that is emulated: a product of
  320 x 896 takes 28 ms in place of 3 ms in float32. Here it is bfloat16 only where the hardware has it.
- FSDP2 gives each process some rows of each matrix, and the iteration needs them all. torch's arithmetic on sharded
  tensors gathers them for each product, fifteen times a step; here once, in the format of the iteration, and each
  process then computes the whole and keeps its rows.
"""

import torch
from torch.distributed.tensor import DTensor, Replicate

from .hardware import supports_bf16


class Muon(torch.optim.Muon):
    """torch.optim.Muon where matrices may be sharded (DTensor) and processors may lack bfloat16."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)
        return loss

    def _update(self, p: torch.Tensor, group: dict) -> None:
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p.grad)
        average = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
        update = p.grad.lerp(average, group["momentum"]) if group["nesterov"] else average
        update = update.to(torch.bfloat16 if supports_bf16(p.device) else torch.float32)
        if isinstance(update, DTensor):
            whole = orthogonalize(update.full_tensor(), group)
            replicas = DTensor.from_local(whole, p.device_mesh, [Replicate()] * p.device_mesh.ndim, run_check=False)
            update = replicas.redistribute(placements=p.placements)  # each keeps its part, nothing is sent
        else:
            update = orthogonalize(update, group)
        update = update.to(p.dtype)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(update, alpha=-group["lr"] * _scale(p.shape, group["adjust_lr_fn"]))


def orthogonalize(matrix: torch.Tensor, group: dict) -> torch.Tensor:
    """U S V' -> about U V', by a polynomial of odd powers, a x + b x^3 + c x^5, applied to the singular values.

    With the published coefficients they end between about 0.7 and 1.2, which serves as well as 1 and is quicker.
    """
    a, b, c = group["ns_coefficients"]
    x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=group["eps"])  # no singular value above 1
    for _ in range(group["ns_steps"]):
        square = x @ x.mT
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if matrix.shape[0] > matrix.shape[1] else x


def _scale(shape: torch.Size, kind: str | None) -> float:
    """Factor on the rate by shape: Jordan's, or Moonlight's (Liu et al. 2025, arXiv:2502.16982)."""
    rows, columns = shape
    return 0.2 * max(rows, columns) ** 0.5 if kind == "match_rms_adamw" else max(1.0, rows / columns) ** 0.5
