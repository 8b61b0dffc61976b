"""What a checkpoint holds of a run, as named tensors, there and back: weights, optimizers, the average of the weights.

Tensors may be spread over processes. The names of an optimizer's tensors are `index.key`, in the order of its
parameters; what is no tensor goes into the JSON beside them.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from .checkpoint import Parts, read_part, read_state
from .ema import WeightAverage
from .parallel import spread_like
from .zero import Spread, ZeroOptimizer


def collect(model: nn.Module, optimizers: list, average: WeightAverage | None) -> tuple[Parts, dict]:
    """(the tensors of each part, what JSON holds of the optimizers and the average)."""
    parts, rest = {"model": _named(model)}, {"optimizers": []}
    for i, optimizer in enumerate(optimizers):
        parts[f"optimizer-{i}"], others = _flatten(optimizer.state_dict())
        rest["optimizers"].append(others)
    if average is not None:
        parts["average"], rest["average_updates"] = average.tensors(), average.updates
    return parts, rest


@torch.no_grad()
def restore(path: Path, model: nn.Module, optimizers: list, average: WeightAverage | None) -> dict:
    """Put everything back as the checkpoint has it; returns its state."""
    state = read_state(path)
    own = _named(model)
    missing = set(own)
    for name, tensor in read_part(path, "model"):
        if name not in own or own[name].shape != tensor.shape:
            raise ValueError(f"checkpoint {path} is of another model: {name} has shape {list(tensor.shape)} there")
        own[name].copy_(spread_like(tensor, own[name]))
        missing.remove(name)
    if missing:
        raise ValueError(f"checkpoint {path} is of another model: it lacks {', '.join(sorted(missing)[:3])}")
    for i, optimizer in enumerate(optimizers):
        tensors, rest = read_part(path, f"optimizer-{i}"), state["optimizers"][i]
        if isinstance(optimizer, ZeroOptimizer):
            optimizer.load(tensors, rest["param_groups"])
        else:
            optimizer.load_state_dict(_unflatten(tensors, rest, optimizer))
    if average is not None:
        tensors = average.tensors()
        spread = {name: spread_like(tensor, tensors[name]) for name, tensor in read_part(path, "average")}
        average.load(spread, state["average_updates"])
    return state


def _named(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter once, tied ones under their first name, and the buffers that are saved."""
    saved = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
    return {name: p.detach() for name, p in model.named_parameters()} | buffers


def _flatten(state_dict: dict) -> tuple[dict[str, torch.Tensor], dict]:
    tensors, rest = {}, {"state": {}, "param_groups": state_dict["param_groups"]}
    for index, entries in state_dict["state"].items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor | Spread):
                tensors[f"{index}.{key}"] = value
            else:
                rest["state"].setdefault(str(index), {})[key] = value
    return tensors, rest


def _unflatten(tensors: Iterable[tuple[str, torch.Tensor]], rest: dict, optimizer) -> dict:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {int(index): dict(entries) for index, entries in rest["state"].items()}
    for name, value in tensors:
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = spread_like(value, parameters[int(index)])
    return {"state": state, "param_groups": rest["param_groups"]}
