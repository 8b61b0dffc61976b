"""The ladder: which models are trained on how many tokens, and the options of `rhapsode pretrain` for each.

All runs share tokenizer, validation documents, design, batch and learning rates. Muon's update has a fixed spectral
norm, so that one rate suits all widths (Bernstein and Newhouse 2024, arXiv:2409.20325); each budget is a run of its own
with its whole schedule, as Hoffmann et al. 2022 found necessary.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

from ..options.base import UserError
from ..options.pretrain import PretrainOptions
from ..options.scaling import ScalingOptions
from ..training.metrics import flops_per_token
from ..training.setup import new_model

HEAD_SIZE = 8  # small, so that small widths have several heads
FFN_MULTIPLE = 16
WIDEST = 8192
EVALUATED = 65_536  # tokens of each run's final loss: the same windows for all; on all text, a fifth of a short run


@dataclass(frozen=True)
class Rung:
    """One run: a shape, a number of optimizer steps, a seed, and the parameters and FLOPs that follow."""

    width: int
    layers: int
    steps: int
    tokens: int
    seed: int
    parameters: int
    non_embedding: int
    flops: float  # of the whole training

    @property
    def size(self) -> str:
        return f"{self.width}x{self.layers}"

    @property
    def name(self) -> str:
        return f"{self.size}-{self.tokens}-seed{self.seed}"


@dataclass(frozen=True)
class Ladder:
    """`fitted` runs, of which those of one size and budget may differ by seed alone; `held_out` is predicted."""

    fitted: list[Rung]
    held_out: Rung

    @property
    def repeated(self) -> list[Rung]:
        """The runs of which there is more than one seed."""
        shapes = Counter((r.size, r.tokens) for r in self.fitted)
        return [r for r in self.fitted if shapes[r.size, r.tokens] > 1]


def plan(options: ScalingOptions, tokenizer, scale: float = 1.0) -> Ladder:
    """Every size on every budget times `scale`, further seeds for the one in the middle, and the larger model.

    Raises:
        UserError: a size that is none, or a larger model that is not as much larger as asked for.
    """
    sizes = sorted({_parse_size(text) for text in options.sizes}, key=lambda s: s[0] ** 2 * s[1])
    budgets = sorted({int(tokens * scale) for tokens in options.tokens})
    fitted = [_rung(options, tokenizer, *size, tokens, options.seed) for size, tokens in product(sizes, budgets)]
    middle = sizes[(len(sizes) - 1) // 2], budgets[(len(budgets) - 1) // 2]
    seeds = [(options.seed + i) % 2**32 for i in range(1, options.noise_seeds)]
    fitted += [_rung(options, tokenizer, *middle[0], middle[1], seed) for seed in seeds]
    largest = max(fitted, key=lambda r: r.parameters)
    tokens = int((options.held_out_tokens or max(options.tokens)) * scale)
    deepens = len({layers for _, layers in sizes}) > 1
    return Ladder(fitted, _held_out(options, tokenizer, largest, tokens, deepens))


def _parse_size(text: str) -> tuple[int, int]:
    width, _, layers = text.partition("x")
    if not (width.isdecimal() and layers.isdecimal() and int(width) and int(layers)):
        raise UserError(f"size {text!r} is not of the form WIDTHxLAYERS, e.g. 64x2")
    if int(width) % HEAD_SIZE:
        near = max(HEAD_SIZE, round(int(width) / HEAD_SIZE) * HEAD_SIZE)
        raise UserError(f"size {text!r}: the width must be a multiple of {HEAD_SIZE}, the size of a head; try {near}")
    return int(width), int(layers)


def _held_out(options: ScalingOptions, tokenizer, largest: Rung, tokens: int, deepens: bool) -> Rung:
    """The model that is asked for, or the smallest that is larger enough by both counts.

    It is as deep as the ladder, or, where the ladder `deepens`, as slender as its largest model.
    """

    def is_enough(rung: Rung) -> bool:
        ratio = options.held_out_ratio
        return rung.parameters >= ratio * largest.parameters and rung.non_embedding >= ratio * largest.non_embedding

    if options.held_out:
        rung = _rung(options, tokenizer, *_parse_size(options.held_out), tokens, options.seed)
        if not is_enough(rung):
            raise UserError(
                f"--held_out {options.held_out} has {rung.parameters:,} parameters, {rung.non_embedding:,} of them not "
                f"embeddings; --held_out_ratio {options.held_out_ratio:g} asks for that many times {largest.size}'s "
                f"{largest.parameters:,} and {largest.non_embedding:,}"
            )
        return rung
    for width in range(largest.width, WIDEST, HEAD_SIZE):
        layers = round(largest.layers * width / largest.width) if deepens else largest.layers
        rung = _rung(options, tokenizer, width, layers, tokens, options.seed)
        if is_enough(rung):
            return rung
    raise UserError(f"--held_out_ratio {options.held_out_ratio:g} asks for a model wider than {WIDEST}")


def _rung(options: ScalingOptions, tokenizer, width: int, layers: int, tokens: int, seed: int) -> Rung:
    step = options.per_device_train_batch_size * options.max_length
    steps = max(1, tokens // step)
    with torch.device("meta"):
        model = new_model(_pretrain_options(options, width, layers), tokenizer)
    parameters = sum(p.numel() for p in model.parameters())
    tables = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    flops = flops_per_token(model, options.max_length) * steps * step
    non_embedding = parameters - sum(p.numel() for p in tables)
    return Rung(width, layers, steps, steps * step, seed, parameters, non_embedding, flops)


def run_options(options: ScalingOptions, rung: Rung, tokenizer: Path | str, directory: Path) -> PretrainOptions:
    """The run as `rhapsode pretrain` takes it; one that was interrupted goes on."""
    return _pretrain_options(
        options,
        rung.width,
        rung.layers,
        tokenizer=str(tokenizer),
        output_dir=str(directory),
        resume=directory.exists(),
        max_steps=rung.steps,
        seed=rung.seed,
        eval_steps=rung.steps,
        final_eval_tokens=EVALUATED,
        save_steps=max(1, rung.steps // 2),
        save_total_limit=1,
        logging_steps=max(1, rung.steps // 50),
    )


def _pretrain_options(options: ScalingOptions, width: int, layers: int, **more) -> PretrainOptions:
    heads = width // HEAD_SIZE
    ffn = -(-8 * width // (3 * FFN_MULTIPLE)) * FFN_MULTIPLE  # 8/3 of the width, as in the design
    shape = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    shape |= {"num_key_value_heads": heads, "intermediate_size": ffn}
    shared = ("preset", "dataset", "text_column", "data_cache", "max_length", "per_device_train_batch_size", "optim")
    shared += ("learning_rate", "muon_learning_rate", "weight_decay", "lr_scheduler_type", "warmup_steps", "bf16")
    shared += ("attn_implementation",)
    return PretrainOptions(
        config_overrides=[f"{key}={value}" for key, value in shape.items()] + options.config_overrides,
        packing="concatenate",  # no padding: a budget is a number of tokens
        num_proc=1,
        sample_tokens=1,
        track_energy=False,
        **{name: getattr(options, name) for name in shared},
        **more,
    )
