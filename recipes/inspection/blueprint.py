"""The architecture: modules with the shapes of their tensors, how a block is wired, and what the KV cache takes.

The wiring is not written down once more: the function that runs the block is run on symbols, and what it does with them
is the drawing. Models of other families have no such function, and show their modules alone.

KV cache, bytes at T positions = sum over layers of 2 K C min(T, window) x bytes of a number
"""

from dataclasses import dataclass
from types import SimpleNamespace

from torch import nn

from ...modeling import RhapsodeConfig

LENGTHS = 64  # points of the cache's curve
SHOWN = (  # settings of the configuration that explain the drawing, where a family has them
    *(
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
    ),
    *("vocab_size", "max_position_embeddings", "norm_type", "norm_order", "position_embedding_type", "hidden_act"),
    *("mlp_gated", "parallel_block", "qk_norm", "sliding_window", "tie_word_embeddings", "rope_parameters"),
)


def blueprint(model) -> dict:
    """The drawing of a model, of which no tensor is read: it may live on the meta device."""
    own = set()
    parts = _parts(model.base_model, own)
    if model.base_model is not model:
        parts += [part for part in _parts(model, own) if part["name"] != model.base_model_prefix]
    settings = {key: getattr(model.config, key, None) for key in SHOWN}
    return {
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "settings": {key: str(value) for key, value in settings.items() if value is not None},
        "parts": parts,
        "wiring": wiring(model),
        "cache": cache(model.config),
    }


def _parts(module: nn.Module, seen: set) -> list[dict]:
    """The children of a module, each with its tensors; equal neighbours in a list are one part with a count."""
    parts = []
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            for layer in child:
                part = _part(name, layer, seen)
                same = parts and parts[-1]["tensors"] == part["tensors"] and parts[-1]["name"] == name
                if same:
                    parts[-1]["repeat"] += 1
                else:
                    parts.append(part)
        else:
            parts.append(_part(name, child, seen))
    return parts


def _part(name: str, module: nn.Module, seen: set) -> dict:
    """A tensor that another part has already (a tied head) is shown, and not counted again."""
    tensors, count = [], 0
    for path, tensor in module.named_parameters():
        is_tied = id(tensor) in seen
        seen.add(id(tensor))
        count += 0 if is_tied else tensor.numel()
        tensors.append([path, list(tensor.shape), is_tied])
    return {"name": name, "kind": type(module).__name__, "repeat": 1, "parameters": count, "tensors": tensors}


@dataclass(eq=False)
class Symbol:
    """What stands for a tensor while the wiring is run: every operation on it becomes a line of the drawing."""

    steps: list
    index: int

    def __add__(self, other: "Symbol") -> "Symbol":
        return self.step("+", "add", self, other)

    def step(self, label: str, kind: str, *inputs: "Symbol", detail: str = "") -> "Symbol":
        self.steps.append(
            {"label": label, "kind": kind, "inputs": [symbol.index for symbol in inputs], "detail": detail}
        )
        return Symbol(self.steps, len(self.steps) - 1)


def wiring(model) -> list[dict] | None:
    """The steps of one block in order; each names its kind and the steps that it takes its inputs from."""
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not hasattr(layers[0], "wiring"):
        return None
    c = model.config
    heads = f"{c.num_attention_heads} heads of {c.head_dim}, {c.num_key_value_heads} of keys and values"
    widths = f"{c.hidden_size:,} -> {c.intermediate_size:,} -> {c.hidden_size:,}, {c.hidden_act}"
    x = Symbol([{"label": "x", "kind": "stream", "inputs": [], "detail": f"(B, T, {c.hidden_size})"}], 0)
    norms = {
        name: lambda symbol, name=name: symbol.step(name, "norm", symbol, detail=c.norm_type)
        for name, child in layers[0].named_children()
        if name.endswith("layernorm")
    }
    layers[0].wiring(
        SimpleNamespace(add=lambda x, update: x + update, **norms),
        x,
        lambda symbol: symbol.step("self_attn", "attention", symbol, detail=heads),
        lambda symbol: symbol.step("mlp", "mlp", symbol, detail=widths + (", gated" if c.mlp_gated else "")),
    )
    return x.steps


def cache(config) -> dict | None:
    """Values that each position adds over all layers, and how the cache grows; 2 bytes a value (bfloat16).

    None for other families: their fields do not say it alike (Falcon has one head of keys under two flags).
    """
    if not isinstance(config, RhapsodeConfig):
        return None
    longest, window = config.max_position_embeddings, config.sliding_window
    each = 2 * config.num_key_value_heads * config.head_dim
    kinds = config.attention_types()
    lengths = sorted({max(1, round(longest * i / LENGTHS)) for i in range(LENGTHS + 1)})
    sizes = [sum(2 * each * (min(T, window) if "sliding" in kind else T) for kind in kinds) for T in lengths]
    return {"per_token": 2 * each * len(kinds), "lengths": lengths, "bytes": sizes}
