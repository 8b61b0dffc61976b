"""How the cost of a training token grows: with the length of sequences, the vocabulary and the width of the model.

Forward and backward pass in bfloat16 where the hardware has it, of our loss on our model and of the family's class with
its own loss, as many tokens at each point.
"""

import dataclasses

import torch
from transformers import AutoModelForCausalLM

from ...hub.families import family_named
from ...hub.family import to_family
from ...modeling import RhapsodeConfig, RhapsodeForCausalLM
from ..training.attention import best_attention, set_attention
from ..training.hardware import supports_bf16
from ..training.loss import NextTokenLoss
from ..training.metrics import flops_per_token
from .bench import Bench
from .figures import LESS, Figure, entries, round_shares
from .interleaving import OURS, PEER, Contender, Entrant
from .limits import BF16, CONTENDER, FP32, entrant, values
from .memory import peak_over
from .turns import Clock, Turns, device

OWN = "rhapsode"


def grow(turns: Turns, fields: dict, family: str | None, tokens: int, seed: int) -> None:
    """A unit builds a model of the size that is asked for, runs it once, and measures it once."""
    turns.ready()

    def unit(length: int, **sizes) -> dict:
        torch.manual_seed(seed)
        config = RhapsodeConfig(**fields | sizes | {"max_position_embeddings": length})
        ids = torch.randint(config.vocab_size, (max(1, tokens // length), length), device=device())
        step, flops, gradients = build(config, family, ids)
        step()
        clock = Clock()
        step()
        values = clock.read()
        counts = {"tokens": ids.numel(), "flops": flops * ids.numel(), "gradient_bytes": gradients}
        return values | counts | {"peak_bytes": peak_over(step)}

    turns.serve(unit)


def build(config: RhapsodeConfig, family: str | None, ids: torch.Tensor):
    """(a forward and a backward pass on `ids`, FLOPs a token, bytes of the gradients) of our model, or the family's."""
    if family is None:
        model = RhapsodeForCausalLM(config).to(device())
        set_attention(model, best_attention(model, device(), ids.shape[1]))
        loss, count = NextTokenLoss(model), torch.tensor(ids[:, 1:].numel(), device=device())
    else:
        model = AutoModelForCausalLM.from_config(to_family(family_named(family), config)).to(device())
    model.train()

    def step() -> None:
        with torch.autocast(device().type, torch.bfloat16, enabled=supports_bf16(device())):
            batch = {"input_ids": ids, "labels": ids}
            nats = loss(batch, count) if family is None else model(**batch, use_cache=False).loss
        nats.backward()
        model.zero_grad()

    return step, flops_per_token(model, ids.shape[1]), sum(p.nbytes for p in model.parameters())


def points(options, config: RhapsodeConfig) -> list[tuple[str, int, dict]]:
    """(what grows, its value, the sizes of the model)."""
    found = [("length", n, {"length": n}) for n in options.growth_lengths]
    found += [("vocabulary", n, {"vocab_size": n, "length": options.length}) for n in options.growth_vocabularies]
    for width in options.growth_widths:
        heads = max(1, width // config.head_dim)
        feed_forward = round(config.intermediate_size * width / config.hidden_size)
        sizes = {"hidden_size": width, "intermediate_size": feed_forward, "num_attention_heads": heads}
        sizes |= {"num_key_value_heads": heads, "head_dim": width // heads, "length": options.length}
        found.append(("width", width, sizes))
    return found


def measure(bench: Bench) -> list[Figure]:
    o, design = bench.options, bench.designs[0]
    names = {f.name for f in dataclasses.fields(RhapsodeConfig)} - {"layer_types"}
    fields = {name: getattr(design.config, name) for name in names if hasattr(design.config, name)}
    shared = {"fields": fields, "tokens": o.batch * o.length // 2, "seed": o.seed}
    target = f"{__name__}:grow"
    contenders = [Contender(OWN, target, OURS, shared | {"family": None})]
    if bench.peers("llama") and design.family:
        contenders.append(Contender(design.family, target, PEER, shared | {"family": design.family}))
    kinds = {c.name: c.kind for c in contenders}
    of = BF16 if supports_bf16(device()) else FP32
    figures, cases = [], points(o, design.config)
    with bench.stage("growth", [CONTENDER, *contenders]) as stage:
        for i, (axis, value, sizes) in enumerate(cases):
            turns = [entrant(of), *(Entrant(name, name, sizes) for name in kinds)]
            share = 1 / (len(cases) - i)
            section = f"growth {axis} {value}"
            samples = bench.take_turns(stage, section, turns, rounds=min(2, o.rounds), share=share)
            figures += _figures(axis, value, samples, kinds, dict(stage.faults), of)
    return figures


def _figures(axis: str, value: int, samples: dict, kinds: dict, faults: dict, of: str) -> list[Figure]:
    speed = {name: [s["tokens"] / s["seconds"] for s in samples[name]] for name in kinds}
    rows = entries(speed, kinds, faults)
    for entry in rows:
        flops = [s["flops"] / s["seconds"] for s in samples[entry.name]]
        entry.shares = round_shares(flops, values(samples, of))
    known = {name: [s for s in samples[name] if s["peak_bytes"]] for name in kinds}
    memory = entries({name: [s["peak_bytes"] / 2**20 for s in found] for name, found in known.items()}, kinds, faults)
    for entry in memory:
        entry.shares = [s["gradient_bytes"] / s["peak_bytes"] for s in known[entry.name]]
    what, grown = f"{axis} {value:,}", {"axis": axis, "at": value}
    return [
        Figure("growth", what, "tokens/s", rows, limit=f"MFU: {of} in the same round", **grown),
        Figure("growth", what, "MiB of a pass", memory, LESS, "the gradients alone, as a share of it", **grown),
    ]
