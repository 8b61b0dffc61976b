"""What the machine can do at most: matrix products and reading memory. A contender like any other, with its turn in
each round, so that a share of the limit compares what was measured within the same seconds."""

import torch

from ..training.hardware import measured_bandwidth, measured_flops
from .bench import Bench
from .figures import Entry, Figure
from .interleaving import LIMIT, Contender, Entrant
from .turns import Turns, device

BANDWIDTH, BF16, FP32 = "memory bandwidth", "bfloat16 products", "float32 products"
CONTENDER = Contender("limits", f"{__name__}:limits", LIMIT)


def limits(turns: Turns) -> None:
    kind = device().type
    turns.ready()

    def unit(of: str) -> dict:
        if of == BANDWIDTH:
            return {"value": measured_bandwidth(kind)}
        return {"value": measured_flops(kind, torch.bfloat16 if of == BF16 else torch.float32)}

    turns.serve(unit)


def entrant(of: str) -> Entrant:
    return Entrant(of, CONTENDER.name, {"of": of})


def values(samples: dict[str, list[dict]], of: str) -> list[float]:
    return [sample["value"] for sample in samples.get(of, [])]


def measure(bench: Bench) -> list[Figure]:
    """The limits by themselves, on a machine that does nothing else."""
    entrants = [entrant(of) for of in (BF16, FP32, BANDWIDTH)]
    with bench.stage("limits", [CONTENDER]) as stage:
        samples = bench.take_turns(stage, "limits", entrants)
    figures = []
    for of, unit in ((BF16, "GFLOP/s"), (FP32, "GFLOP/s"), (BANDWIDTH, "GB/s")):
        found = [value / 1e9 for value in values(samples, of)]
        entry = Entry("this machine", LIMIT, found, fault=stage.faults.get(CONTENDER.name))
        figures.append(Figure("limits", of, unit, [entry], limit="itself"))
    return figures
