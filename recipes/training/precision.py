"""Number formats of a run: what weights are kept in, and what matrix products are computed in.

float32 weights, bfloat16 products (autocast)   the usual: updates are far smaller than bfloat16's steps
bfloat16 throughout                             half the memory; updates below 1/512 of a weight are rounded away
float8 products of the blocks (torchao)         where the hardware has them (compute capability 8.9), head excepted
"""

import importlib.util
from dataclasses import dataclass

import torch
from torch import nn

from ..options.base import UserError
from ..options.pretrain import PretrainOptions
from .hardware import supports_bf16
from .parameters import blocks

FLOAT8_CAPABILITY = (8, 9)  # Ada and Hopper
FLOAT8_MULTIPLE = 16  # both sizes of a float8 product are multiples of it


@dataclass(frozen=True)
class Precision:
    """`weights` is the type of parameters, gradients and optimizer, `autocast` that of products where it differs."""

    weights: torch.dtype
    autocast: torch.dtype | None
    fp8: bool

    @property
    def products(self) -> torch.dtype:
        """What products outside of float8 are computed in; MFU counts by its peak."""
        return self.autocast or self.weights

    @property
    def mixed_precision(self) -> str:
        """As Accelerator takes it."""
        return "bf16" if self.autocast else "no"

    def __str__(self):
        weights = {torch.float32: "float32 master weights", torch.bfloat16: "pure bfloat16"}[self.weights]
        products = "products in bfloat16 (autocast)" if self.autocast else "products in float32"
        others = [] if self.weights == torch.bfloat16 else [products]
        return ", ".join([weights, *others, *(["those of the blocks in float8 (torchao)"] if self.fp8 else [])])


def choose_precision(options: PretrainOptions, device: torch.device) -> Precision:
    """The formats that the options ask for, or the best that the device has.

    Raises:
        UserError: options that exclude each other, or hardware or a library that is not there.
    """
    if options.pure_bf16 and options.bf16 is False:
        raise UserError("--pure_bf16 with --no-bf16: one asks for bfloat16, the other forbids it; leave one out")
    if options.fp8:
        _check_fp8(options, device)
    autocast = supports_bf16(device) if options.bf16 is None else options.bf16
    if options.pure_bf16:
        return Precision(torch.bfloat16, None, options.fp8)
    return Precision(torch.float32, torch.bfloat16 if autocast else None, options.fp8)


def _check_fp8(options: PretrainOptions, device: torch.device) -> None:
    if options.bf16 is False:
        raise UserError("--fp8 with --no-bf16: float8 products give bfloat16 results; leave --no-bf16 out")
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    if capability is None or capability < FLOAT8_CAPABILITY:
        here = device.type if capability is None else f"compute capability {capability[0]}.{capability[1]}"
        raise UserError(f"--fp8 needs a GPU of compute capability 8.9 or more, and this is {here}; leave it out")
    if importlib.util.find_spec("torchao") is None:
        raise UserError("--fp8 needs torchao: pip install torchao")


def convert_to_fp8(model: nn.Module, **config) -> int:
    """Linear layers of the blocks compute in float8 from now on; how many. Weights and names stay as they are.

    Before compilation and wrappers. `config` goes to torchao's Float8LinearConfig.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    stack = tuple(f"{name}." for name in blocks(model))
    converted = []

    def fits(module: nn.Linear, name: str) -> bool:
        is_taken = name.startswith(stack) and all(n % FLOAT8_MULTIPLE == 0 for n in module.weight.shape)
        converted.extend([name] * is_taken)
        return is_taken

    convert_to_float8_training(model, module_filter_fn=fits, config=Float8LinearConfig(**config))
    if not converted:
        raise UserError(
            f"--fp8: {type(model).__name__} has no linear layer in its blocks with sizes that are multiples of 16"
        )
    return len(converted)
