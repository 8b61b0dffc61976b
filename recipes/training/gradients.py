"""The norm of all gradients, and its limit (Pascanu et al. 2013, arXiv:1211.5063), also where some are sharded.

torch's own function takes plain tensors or sharded ones on one mesh of processes. Under tensor parallelism a model has
both: matrices in slices and norms whole; their squares are added here.
"""

import torch
from torch import nn
from torch.distributed.tensor import DeviceMesh, DTensor


def mesh_of(tensor: torch.Tensor) -> DeviceMesh | None:
    """What the tensor is sharded over; tensors of different meshes cannot be in one operation."""
    return tensor.device_mesh if isinstance(tensor, DTensor) else None


def clip_gradients(model: nn.Module, limit: float) -> torch.Tensor:
    """Scale all gradients down to a norm of `limit`, 0 for no limit; their norm before, the same on all processes."""
    by_mesh: dict[DeviceMesh | None, list[nn.Parameter]] = {}
    for p in model.parameters():
        if p.grad is not None:
            by_mesh.setdefault(mesh_of(p.grad), []).append(p)
    if not by_mesh:
        return torch.zeros(())
    norms = [nn.utils.get_total_norm([p.grad for p in parameters]) for parameters in by_mesh.values()]
    norms = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    total = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    if limit > 0:
        for parameters in by_mesh.values():
            nn.utils.clip_grads_with_norm_(parameters, limit, total)
    return total
