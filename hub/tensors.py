"""Tensor names, theirs and ours, and the packings between them: the weights' half of a conversion.

Loading hands transformers a list of renamings and converters, which it applies to each tensor as the shards are read:
dtype, device map and quantization work as for any model, and no second copy of the checkpoint exists. Saving walks the
model tensor by tensor.

A renaming is a regular expression over a whole path of modules, with the first of them optional: checkpoints of a
backbone without its head (the original GPT-2) go without, `h.0.ln_1.weight` for `transformer.h.0.ln_1.weight`.
"""

import re
from collections.abc import Iterator, Mapping

import torch
from transformers.core_model_loading import WeightConverter, WeightRenaming

from ..modeling import RhapsodeConfig
from .family import Family
from .packing import Packing, Unpack

LAYERS = "model.layers"
BACKBONE = {name: name for name in ("model.embed_tokens", "model.embed_positions", LAYERS, "model.norm")}
# Tables and masks that older releases kept in their files; they follow from the configuration.
BUFFERS = re.compile(r"\.(rotary_emb\.inv_freq|attn\.causal_mask|(attn|attention)\.(attention\.)?(bias|masked_bias))$")


def weight_transforms(family: Family, config: RhapsodeConfig) -> list[WeightRenaming | WeightConverter]:
    """What turns a tensor of the family's checkpoint into ours, in the form that transformers applies."""
    names = BACKBONE | family.names_for(config)
    return [*_renamings(names), *(_converter(packing, leaf) for packing in family.packings for leaf in packing.leaves)]


def _renamings(names: dict[str, str]) -> list[WeightRenaming]:
    layers = _pattern(names[LAYERS])
    inside = {ours: theirs for ours, theirs in names.items() if _is_inside(ours)}
    rules = [
        (rf"^{layers}\.(\d+)\.{re.escape(theirs)}\.", rf"{LAYERS}.\1.{ours}.") for ours, theirs in _in_order(inside)
    ]
    rules += [(rf"^{_pattern(theirs)}\.", f"{ours}.") for ours, theirs in names.items() if not _is_inside(ours)]
    return [WeightRenaming(theirs, ours) for theirs, ours in rules]


def _is_inside(module: str) -> bool:
    return not module.startswith(("model.", "lm_head"))


def _pattern(path: str) -> str:
    first, dot, rest = path.partition(".")
    return rf"(?:{re.escape(first)}\.)?{re.escape(rest)}" if dot else re.escape(path)


def _in_order(names: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The pairs so that a name is left before another one moves in: each rule sees what the rules before it made."""
    waiting = dict(names)
    while waiting:
        free = [ours for ours in waiting if all(ours != theirs for o, theirs in waiting.items() if o != ours)]
        assert free, f"these names go round in a circle: {waiting}"
        yield free[0], waiting.pop(free[0])


def _converter(packing: Packing, leaf: str) -> WeightConverter:
    def path(module: str) -> str:
        return f".{module}.{leaf}" if _is_inside(module) else f"{module}.{leaf}"

    source = re.escape(path(packing.theirs)).replace(r"\*", r"\d+")
    return WeightConverter(source, [path(module) for module in packing.ours], operations=[Unpack(packing)])


def foreign_tensors(
    family: Family, config: RhapsodeConfig, tensors: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Our `tensors` by name, as the family's names and tensors, one after the other. Meta tensors give the shapes."""
    names = BACKBONE | family.names_for(config)
    packing_of = {(module, leaf): p for p in family.packings for module in p.ours for leaf in p.leaves}
    for name in tensors:
        scope, module, leaf = _parts(name)
        packing = packing_of.get((module, leaf))
        if packing is None:
            yield _foreign_name(scope, module, leaf, names), tensors[name]
        elif module == packing.ours[0]:  # the first of its parts stands for all
            parts = [tensors[f"{scope}{part}.{leaf}"] for part in packing.ours]
            for i, tensor in enumerate(packing.join(parts, config)):
                yield _foreign_name(scope, packing.theirs.replace("*", str(i)), leaf, names), tensor


def _parts(name: str) -> tuple[str, str, str]:
    """`model.layers.3.mlp.up_proj.weight` -> (`model.layers.3.`, `mlp.up_proj`, `weight`)."""
    scope, module, leaf = re.fullmatch(rf"({re.escape(LAYERS)}\.\d+\.)?(.+)\.(\w+)", name).groups()
    return scope or "", module, leaf


def _foreign_name(scope: str, module: str, leaf: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        if module == ours or module.startswith(f"{ours}."):
            module = theirs + module.removeprefix(ours)
            break
    return f"{scope.replace(LAYERS, names[LAYERS])}{module}.{leaf}"
