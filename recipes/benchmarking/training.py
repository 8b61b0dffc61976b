"""Training: tokens a second, MFU and peak memory, of Rhapsode's loop, transformers' Trainer and litgpt.

Weights, rows and optimizer (AdamW at 5e-5 without decay, the Trainer's defaults, and clipping at 1) are the same for
all. What stands in the loops themselves differs: that is what is compared.
"""

import numpy as np
import torch

from .. import pretrain
from ..options.pretrain import PretrainOptions
from ..training import setup
from ..training.attention import best_attention, set_attention
from ..training.guard import Guard
from ..training.hardware import supports_bf16
from ..training.schedule import BatchSchedule
from .bench import Bench
from .figures import LESS, Entry, Figure, entries, round_shares
from .interleaving import OURS, PEER, Contender, Entrant
from .limits import BF16, CONTENDER, FP32, entrant, values
from .turns import Turns, device
from .work import Design

WARM_UPS = 2  # steps before the first that counts: compilation, and memory that is asked for once
LEARNING_RATE, BETA2, MAX_GRAD_NORM = 5e-5, 0.999, 1.0
EAGER, COMPILED = "rhapsode", "rhapsode compiled"
PEERS = {"trainer": "Trainer", "trainer_best": "Trainer best", "trainer_best_tuned": "Trainer best, our process"}
LITGPT = "litgpt"


class FixedRows:
    """The rows that all contenders train on, as the loop asks for them; a batch goes round at their end."""

    def __init__(self, path: str):
        self.ids = np.load(path)

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, start: int, count: int) -> dict[str, torch.Tensor]:
        rows = torch.from_numpy(self.ids[np.arange(start, start + count) % len(self.ids)])
        return {"input_ids": rows, "labels": rows.clone()}


def loop_of(options: PretrainOptions, rows, tokenizer: str) -> pretrain.Run:
    """What `rhapsode pretrain` has before its first step, without a run directory."""
    precision, parallel = setup.start_processes(options)
    model = setup.open_model(options, setup.load_tokenizer(tokenizer)).to(precision.weights)
    set_attention(model, best_attention(model, parallel.accelerator.device, options.max_length))
    model = parallel.place(model).train()
    loss, optimizers = setup.trainable(options, model, precision, parallel)
    return pretrain.Run(
        **{"options": options, "directory": None, "parallel": parallel, "precision": precision, "tokenizer": None},
        **{"model": model, "loss": loss, "rows": rows, "validation": None, "length": options.max_length},
        **{"batches": BatchSchedule.of(options, 1), "total_steps": 10**6, "optimizers": optimizers, "average": None},
        guard=Guard(0, 20),
    )


def train_step(current: pretrain.Run) -> float:
    """One step of the loop; its loss in nats per token."""
    loss, _ = pretrain.train_step(current)
    current.progress.step += 1
    return loss


def loop_options(model: str, batch: int, length: int, seed: int, compiled: bool = False) -> PretrainOptions:
    """The command line's defaults, but for the Trainer's optimizer."""
    return PretrainOptions(
        model=model,
        per_device_train_batch_size=batch,
        max_length=length,
        torch_compile=compiled,
        learning_rate=LEARNING_RATE,
        adam_beta2=BETA2,
        weight_decay=0.0,
        max_grad_norm=MAX_GRAD_NORM,
        lr_scheduler_type="constant",
        warmup_steps=0,
        seed=seed,
    )


def rhapsode(turns: Turns, model: str, rows: str, compiled: bool, **settings) -> None:
    """Rhapsode's loop: a unit is a step."""
    current = loop_of(loop_options(model, compiled=compiled, **settings), FixedRows(rows), model)
    losses = [train_step(current) for _ in range(WARM_UPS)]
    turns.ready(losses=losses, precision=str(current.precision), attention=current.model.config._attn_implementation)
    turns.serve(lambda: {"loss": train_step(current)})


def contenders(bench: Bench, design: Design) -> list[Contender]:
    o = bench.options
    shared = {"rows": str(bench.work / "rows.npy"), "batch": o.batch, "length": o.length, "seed": o.seed}
    ours = [
        Contender(name, f"{__name__}:rhapsode", OURS, {"model": design.ours, "compiled": compiled} | shared)
        for name, compiled in ((EAGER, False), (COMPILED, True))
        if o.torch_compile or not compiled
    ]
    if not design.family:
        return [CONTENDER, *ours]
    home = __name__.rpartition(".")[0]
    theirs = [
        Contender(
            PEERS[name],
            f"{home}.trainer:train",
            PEER,
            {"model": design.foreign, "output_dir": str(bench.work / name)} | fast(o, name) | shared,
            is_tuned=name == "trainer_best_tuned",
        )
        for name in bench.peers(*PEERS)
    ]
    if bench.peers("litgpt"):
        arguments = {"model": design.foreign, "compiled": o.torch_compile} | shared
        theirs.append(Contender(LITGPT, f"{home}.litgpt_peer:train", PEER, arguments, is_tuned=False))
    return [CONTENDER, *ours, *theirs]


def fast(options, name: str) -> dict:
    """The Trainer's two switches that make it faster."""
    is_best = name != "trainer"
    return {"bf16": is_best, "compiled": is_best and options.torch_compile}


def measure(bench: Bench) -> list[Figure]:
    return [figure for design in bench.designs for figure in _measure(bench, design)]


def _measure(bench: Bench, design: Design) -> list[Figure]:
    section, o = f"training {design.name}", bench.options
    all_contenders = contenders(bench, design)
    entrants = [Entrant(c.name, c.name, units=2) for c in all_contenders if c is not CONTENDER]
    with bench.stage(section, all_contenders) as stage:
        share = 1 / (len(bench.designs) - bench.designs.index(design))
        samples = bench.take_turns(stage, section, [entrant(BF16), entrant(FP32), *entrants], share=share)
    kinds = {c.name: c.kind for c in all_contenders}
    bench.checks[section] = losses_of(stage.facts, samples, kinds)
    tokens = o.batch * o.length
    speed = {name: [tokens / s["seconds"] for s in rows] for name, rows in samples.items() if name in kinds}
    memory = {name: [max(s["memory_bytes"] for s in rows) / 2**20] for name, rows in samples.items() if rows}
    of = BF16 if supports_bf16(device()) else FP32
    peak = values(samples, of)
    rows: list[Entry] = entries(speed, kinds, stage.faults)
    for entry in rows:
        entry.shares = round_shares([v * design.flops_per_token for v in entry.values], peak)
    where = f"{design.name}, {design.parameters / 1e6:.1f}M parameters, {o.batch} x {o.length} tokens"
    held = 4 * 4 * design.parameters / 2**20  # float32 weights, gradients and two averages
    held_rows = entries({n: v for n, v in memory.items() if n in kinds}, kinds, stage.faults)
    for entry in held_rows:
        entry.shares = [held / value for value in entry.values]
    return [
        Figure("training", where, "tokens/s", rows, limit=f"MFU: {of} as measured in the same round"),
        Figure("training", f"{design.name}, peak memory of the process", "MiB", held_rows, LESS, _held(held)),
    ]


def _held(held: float) -> str:
    return f"the {held:,.0f} MiB of float32 weights, gradients and AdamW's averages, as a share of it"


def losses_of(facts: dict, samples: dict, kinds: dict) -> dict:
    """Every contender's losses step by step, warm-up first, and how far they are from Rhapsode's: the work is equal."""
    losses = {
        name: facts[name]["losses"] + [sample["loss"] for sample in samples.get(name, [])]
        for name in kinds
        if "losses" in facts.get(name, {})
    }
    reference = losses.get(EAGER, [])
    apart = {
        name: max((abs(a - b) for a, b in zip(theirs, reference, strict=False)), default=None)
        for name, theirs in losses.items()
    }
    return {"losses": losses, "largest_difference_from_rhapsode": apart}
