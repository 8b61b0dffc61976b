"""The loss at a large vocabulary: forward and backward pass of head and softmax, without the blocks.

Whole logits are what transformers' classes hold: (tokens, V) numbers, several times over. Memory is what the process
held beyond hidden states, weights and their gradients, which every way to compute it holds.
"""

from types import SimpleNamespace

import torch
from torch import nn
from transformers.loss.loss_utils import ForCausalLMLoss

from ..training.hardware import supports_bf16
from ..training.loss import NextTokenLoss
from .bench import Bench
from .figures import LESS, Figure, entries, round_shares
from .interleaving import OURS, PEER, Contender, Entrant
from .limits import BF16, CONTENDER, FP32, entrant, values
from .memory import peak_over
from .turns import Turns, device

CHUNKED, WHOLE = "rhapsode", "whole logits"


class OnlyHead(nn.Module):
    """A model whose blocks are a table: hidden states (B, T, D) that have a gradient, and a head of V entries."""

    def __init__(self, batch: int, length: int, width: int, vocabulary: int):
        super().__init__()
        self.hidden = nn.Parameter(torch.randn(batch, length, width))
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.lm_head.weight, std=0.02)
        self.config = SimpleNamespace(vocab_size=vocabulary)

    def base_model(self, input_ids, use_cache: bool):
        return SimpleNamespace(last_hidden_state=self.hidden)

    def get_output_embeddings(self):
        return self.lm_head

    def scale_logits(self, logits):
        return logits


def head(turns: Turns, whole: bool, batch: int, length: int, width: int, vocabulary: int, seed: int) -> None:
    """A unit is a forward and a backward pass; with `memory` it is measured what it takes in place of how long."""
    torch.manual_seed(seed)
    model = OnlyHead(batch, length, width, vocabulary).to(device())
    labels = torch.randint(vocabulary, (batch, length), device=device())
    chunked, count = NextTokenLoss(model), torch.tensor(batch * (length - 1), device=device())
    is_bf16 = supports_bf16(device())

    def compute(model=model, chunked=chunked, labels=labels, count=count) -> float:
        with torch.autocast(device().type, torch.bfloat16, enabled=is_bf16):
            if whole:
                loss = ForCausalLMLoss(
                    model.lm_head(model.hidden), labels, model.config.vocab_size, num_items_in_batch=count
                )
            else:
                loss = chunked({"input_ids": labels, "labels": labels}, count)
        loss.backward()
        return loss.item()

    def unit(memory: bool) -> dict:
        model.zero_grad()
        if not memory:
            return {"loss": compute()}
        gradients = sum(p.nbytes for p in model.parameters())
        peak = peak_over(compute)
        return {"peak_bytes": None if peak is None else max(0, peak - gradients)}

    small = OnlyHead(1, 8, width, 64).to(device())  # what libraries keep for ever is not the loss's
    compute(small, NextTokenLoss(small), torch.zeros(1, 8, dtype=torch.long, device=device()), count)
    peak = unit(memory=True)  # before anything else has left memory behind
    norms = [p.grad.norm().item() for p in model.parameters()]
    turns.ready(gradient_norms=norms, **peak)
    turns.serve(unit)


def measure(bench: Bench) -> list[Figure]:
    o, design = bench.options, bench.designs[0]
    sizes = {"batch": o.batch, "length": o.length, "width": design.config.hidden_size, "vocabulary": o.loss_vocabulary}
    kinds = {CHUNKED: OURS, WHOLE: PEER}
    contenders = [
        Contender(name, f"{__name__}:head", kind, sizes | {"whole": kind == PEER, "seed": o.seed})
        for name, kind in kinds.items()
    ]
    of = BF16 if supports_bf16(device()) else FP32
    with bench.stage("loss", [CONTENDER, *contenders]) as stage:
        turns = [entrant(of), *(Entrant(name, name, {"memory": False}) for name in kinds)]
        samples = bench.take_turns(stage, "loss", turns)
        bench.checks["loss"] = {
            "losses": {name: [sample["loss"] for sample in samples[name]] for name in kinds},
            "gradient_norms": {name: stage.facts[name].get("gradient_norms") for name in kinds},
        }
        peaks = {name: stage.facts[name].get("peak_bytes") for name in kinds}
    tokens = o.batch * o.length
    where = f"{tokens:,} tokens, vocabulary {o.loss_vocabulary:,}, D={design.config.hidden_size}"
    arithmetic = 6 * tokens * design.config.hidden_size * o.loss_vocabulary
    seconds = {name: [sample["seconds"] for sample in samples[name]] for name in kinds}
    rows = entries(seconds, kinds, stage.faults)
    for entry in rows:
        entry.shares = round_shares([arithmetic / s for s in entry.values], values(samples, of))
    whole_logits = 4 * tokens * o.loss_vocabulary / 2**20
    memory = {name: [peak / 2**20] for name, peak in peaks.items() if peak is not None}
    held = entries(memory, kinds, stage.faults)
    for entry in held:
        entry.shares = [value / whole_logits for value in entry.values]
    words = f"the {whole_logits:,.0f} MiB of whole logits in float32, as a share of them"
    return [
        Figure("loss", where, "s", rows, LESS, f"its products at the peak of {of}"),
        Figure("loss", f"{where}, memory beyond gradients", "MiB", held, LESS, words),
    ]
