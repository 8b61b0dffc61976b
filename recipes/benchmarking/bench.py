"""What the sections of a measurement share: options, work, time, progress, and what they leave behind."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from ..options.bench import BenchOptions
from .interleaving import Contender, Entrant, Stage
from .work import Design

SHARES = {"training": 4, "decoding": 3, "growth": 3, "loss": 2}  # of the time, where the others have 1
WARM_UP = 60.0  # seconds beyond the end in which a unit that has begun may end


@dataclass
class Bench:
    """`samples` and `checks` go into results.json: each value of each round, and what shows that the work is equal."""

    options: BenchOptions
    directory: Path
    work: Path
    designs: list[Design]
    end: float  # by time.monotonic
    section_end: float = 0.0
    bar: tqdm | None = None
    samples: dict = field(default_factory=dict)
    checks: dict = field(default_factory=dict)
    faults: dict = field(default_factory=dict)

    def begin(self, sections: list[str]) -> None:
        """The first of the sections that are left has its share of the time that is left."""
        now, shares = time.monotonic(), [SHARES.get(section, 1) for section in sections]
        self.section_end = now + max(0.0, self.end - now) * shares[0] / sum(shares)

    def stage(self, section: str, contenders: list[Contender]) -> Stage:
        return Stage(contenders, self.directory / "logs" / section.replace(" ", "_"), self.end + WARM_UP)

    def take_turns(
        self, stage: Stage, section: str, entrants: list[Entrant], rounds: int | None = None, share: float = 1.0
    ) -> dict[str, list[dict]]:
        """As the stage does; the samples and the faults are kept under the section's name.

        `share`: of the section's time that is left, which this may take.
        """
        rounds, now = rounds or self.options.rounds, time.monotonic()
        until = now + share * (self.section_end - now)

        def step() -> None:
            if self.bar is not None:
                self.bar.set_postfix_str(section)
                self.bar.update()

        samples = stage.take_turns(entrants, rounds, until, step)
        self.samples.setdefault(section, {}).update(samples)
        if stage.faults:
            self.faults.setdefault(section, {}).update(stage.faults)
        return samples

    def peers(self, *names: str) -> list[str]:
        """Those of the names that are asked for."""
        return [name for name in names if name in self.options.peers]
