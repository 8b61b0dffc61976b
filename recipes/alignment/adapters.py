"""Low-rank adapters: h = W x + (alpha / r) B A x, with W frozen, A (r, in) random and B (out, r) zero at the start.

LoRA (Hu et al. 2021, arXiv:2106.09685), by peft. An adapter sits on every matrix of the blocks unless layers are named
("LoRA Without Regret", Schulman et al. 2025: attention alone learns less at any rank). Embedding and head stay as they
are; a reward model's head, which is new, is trained as a whole.
"""

from pathlib import Path

from peft import LoraConfig, PeftModel
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..options.alignment import AlignmentOptions
from ..options.base import UserError
from ..training.parameters import blocks

HEAD = "score"


def lora(options: AlignmentOptions, model) -> LoraConfig | None:
    """The configuration for this model, with the names of its layers written out; none without --use_peft.

    Raises:
        UserError: a layer that the model does not have.
    """
    if not options.use_peft:
        return None
    scores = hasattr(model, HEAD)
    return LoraConfig(
        r=options.lora_r,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=_targets(options, model),
        modules_to_save=[HEAD] if scores else None,
        task_type="SEQ_CLS" if scores else "CAUSAL_LM",
    )


def _targets(options: AlignmentOptions, model) -> list[str]:
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    inside = tuple(f"{name}." for name in blocks(model))
    known = sorted({name.split(".")[-1] for name in linear if name.startswith(inside)})
    if not known:
        raise UserError(f"--use_peft: {type(model).__name__} has no linear layers in blocks; train all of it")
    unknown = set(options.lora_target_modules) - set(known)
    if unknown:
        raise UserError(f"--lora_target_modules {' '.join(sorted(unknown))}: the model's layers are {', '.join(known)}")
    return options.lora_target_modules or known


def merge(base, adapter: Path):
    """The base model with W + (alpha / r) B A for its matrices, as an ordinary model."""
    return PeftModel.from_pretrained(base, adapter).merge_and_unload()
