"""Checkpoints: writing one and going on from one, weights and optimizer, of Rhapsode and of the Trainer.

Rhapsode's are flushed to the disk, hashed and renamed, and checked against the hashes when they are read; the Trainer's
are neither. The limits are the disk's: the same number of bytes written and flushed, and read.
"""

import os
import time
from pathlib import Path

from transformers import AutoModelForCausalLM

from ..training.checkpoint import Retention, newest_checkpoint, save_checkpoint
from ..training.state import collect, restore
from .bench import Bench
from .figures import LESS, Figure, entries, round_shares
from .interleaving import LIMIT, OURS, PEER, Contender, Entrant
from .trainer import OrderedTrainer, RowsInOrder, arguments_of
from .training import FixedRows, loop_of, loop_options, train_step
from .turns import Turns
from .work import Design

DISK, TRAINER, OWN = "disk", "Trainer", "rhapsode"
WRITE, RESUME = "write", "resume"
BLOCK = 2**24
BYTES_A_PARAMETER = 12  # float32 weights and two averages


def rhapsode(turns: Turns, model: str, rows: str, directory: str, batch: int, length: int, seed: int) -> None:
    current = loop_of(loop_options(model, batch, length, seed), FixedRows(rows), model)
    train_step(current)  # the optimizer has its averages from here on
    root = Path(directory) / "ours"

    def unit(do: str) -> dict:
        if do == WRITE:
            parts, rest = collect(current.model, current.optimizers, None)
            save_checkpoint(root, current.progress.step, parts, rest, Retention())
        else:
            restore(newest_checkpoint(root), current.model, current.optimizers, None)
        return {}

    serve(turns, unit)


def trainer(turns: Turns, model: str, rows: str, directory: str, batch: int, length: int, seed: int) -> None:
    """By the methods that its loop calls, on a Trainer that has made one step."""
    inner = OrderedTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=arguments_of(directory, batch, seed, max_steps=1),
        train_dataset=RowsInOrder(rows),
    )
    inner.train()
    path = str(Path(directory) / "checkpoint-1")

    def unit(do: str) -> dict:
        if do == WRITE:
            inner._save_checkpoint(inner.model, None)
        else:
            inner._load_from_checkpoint(path)
            inner._load_optimizer_and_scheduler(path)
            inner._load_rng_state(path)
        return {}

    serve(turns, unit)


def disk(turns: Turns, directory: str, size: int) -> None:
    path, block = Path(directory) / "raw", os.urandom(min(size, BLOCK))

    def unit(do: str) -> dict:
        start = time.perf_counter()
        if do == WRITE:
            with path.open("wb") as file:
                for _ in range(-(-size // len(block))):
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
        else:
            with path.open("rb") as file:
                while file.read(BLOCK):
                    pass
        return {"seconds": time.perf_counter() - start}

    serve(turns, unit)


def serve(turns: Turns, unit) -> None:
    for do in (WRITE, RESUME):
        unit(do)
    turns.ready()
    turns.serve(unit)


def measure(bench: Bench) -> list[Figure]:
    o, design = bench.options, bench.designs[0]
    contenders = contenders_of(bench, design)
    kinds = {c.name: c.kind for c in contenders}
    turns = [Entrant(f"{name}, {do}", name, {"do": do}) for do in (WRITE, RESUME) for name in kinds]
    with bench.stage("checkpoints", contenders) as stage:
        samples = bench.take_turns(stage, "checkpoints", turns, rounds=min(o.rounds, 3))
    size, figures = BYTES_A_PARAMETER * design.parameters / 1e6, []
    for do, words in ((WRITE, "writing and flushing as many bytes"), (RESUME, "reading as many bytes")):
        seconds = {name: [s["seconds"] for s in samples[f"{name}, {do}"]] for name in kinds}
        rows = entries(seconds, kinds, stage.faults)
        for entry in rows:
            entry.shares = round_shares(seconds[DISK], entry.values)
        figures.append(Figure("checkpoints", f"{do} {size:,.0f} MB, {design.name}", "s", rows, LESS, words))
    return figures


def contenders_of(bench: Bench, design: Design) -> list[Contender]:
    o, work = bench.options, bench.work / "checkpoints"
    work.mkdir()
    shared = {"rows": str(bench.work / "rows.npy"), "directory": str(work)}
    shared |= {"batch": o.batch, "length": o.length, "seed": o.seed}
    size = BYTES_A_PARAMETER * design.parameters
    found = [Contender(DISK, f"{__name__}:disk", LIMIT, {"directory": str(work), "size": size})]
    found.append(Contender(OWN, f"{__name__}:rhapsode", OURS, {"model": design.ours} | shared))
    if bench.peers("trainer") and design.family:
        found.append(Contender(TRAINER, f"{__name__}:trainer", PEER, {"model": design.foreign} | shared))
    return found
