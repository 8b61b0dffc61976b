"""The table of presets: what each design costs to store, to train and to serve.

weights     2 bytes a parameter (bfloat16)
training    16 bytes a parameter: float32 weights, gradients and AdamW's two averages
KV cache    2 (keys and values) x layers x K x C x 2 bytes, for each token of context
FLOPs       forward and backward for one token at full context, see `training/metrics.py`
"""

import json
import sys

import torch

from ..modeling import RhapsodeConfig, RhapsodeForCausalLM
from ..modeling.presets import TINY, preset, presets
from .cli import run_command
from .options.base import UserError
from .options.presets import PresetsOptions
from .training.metrics import flops_per_token

COLUMNS = {
    "name": "preset",
    "parameters": "parameters",
    "hidden_size": "D",
    "layers": "layers",
    "heads": "H/K",
    "context": "context",
    "batch_tokens": "batch tokens",
    "weights_gb": "weights GB",
    "training_gb": "training GB",
    "kv_cache_kb_per_token": "KV kB/token",
    "training_gflops_per_token": "GFLOP/token",
}


def run(options: PresetsOptions) -> None:
    names = options.names or [name for name in presets() if not name.endswith(TINY)]
    try:
        rows = [describe(name) for name in names]
    except ValueError as error:
        raise UserError(str(error)) from error
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    cells = [list(COLUMNS.values()), *([_show(row[key]) for key in COLUMNS] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    for line in cells:
        first, *others = zip(line, widths, strict=True)
        print(f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in others), sep="  ")


def describe(name: str) -> dict:
    """The figures of one preset; weights are never allocated."""
    config = RhapsodeConfig.from_preset(name)
    with torch.device("meta"):
        model = RhapsodeForCausalLM(config)
    parameters = sum(p.numel() for p in model.parameters())
    kv_values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return {
        "name": name,
        "parameters": parameters,
        "hidden_size": config.hidden_size,
        "layers": config.num_hidden_layers,
        "heads": f"{config.num_attention_heads}/{config.num_key_value_heads}",
        "context": config.max_position_embeddings,
        "batch_tokens": preset(name).batch_instances * config.max_position_embeddings,
        "weights_gb": 2 * parameters / 1e9,
        "training_gb": 16 * parameters / 1e9,
        "kv_cache_kb_per_token": 2 * kv_values / 1e3,
        "training_gflops_per_token": flops_per_token(model, config.max_position_embeddings) / 1e9,
        "source": preset(name).source,
    }


def _show(value) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value


if __name__ == "__main__":
    sys.exit(run_command("presets", sys.argv[1:]))
