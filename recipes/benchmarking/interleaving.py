"""The conductor's side: contenders take turns, A B C A B C, so that whatever else the machine does meets all alike.

Each is built in a process of its own, all at once; only when the last one is ready does the first unit begin, and from
then on one works while the others wait. A contender that fails is left out, with the reason in its place.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from .turns import perform

OURS, PEER, LIMIT = "rhapsode", "peer", "limit"
TUNED = ("THP_MEM_ALLOC_ENABLE", "GOMP_SPINCOUNT")  # what `tune_process` leaves to whoever is started by this process
SECONDS_TO_END = 10
POLL_SECONDS = 1.0


@dataclass
class Contender:
    """A process: `target` is `module:function` and is called with its `Turns` and `arguments`.

    `is_tuned`: started as the command line starts its own processes (`recipes/process.py`), else as any program is.
    """

    name: str
    target: str
    kind: str
    arguments: dict = field(default_factory=dict)
    is_tuned: bool = True


@dataclass
class Entrant:
    """One place in a round: a command to a contender.

    `units` of work follow each other, and the last one counts: systems take memory away from a process that waits for
    the others, and it would be measured getting that back, which a run of its own does not.
    """

    name: str
    contender: str
    command: dict = field(default_factory=dict)
    units: int = 1


class Stage:
    """The processes of some contenders, from their start to their end.

    `facts` has what each said when it was ready, `faults` why it is not there, and `log` where it wrote what it says.
    """

    def __init__(self, contenders: Sequence[Contender], logs: Path, until: float):
        self.contenders = {contender.name: contender for contender in contenders}
        self.logs, self.until = logs, until
        self.facts: dict[str, dict] = {}
        self.faults: dict[str, str] = {}
        self.processes, self.connections = {}, {}

    def __enter__(self):
        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            for contender in self.contenders.values():
                self._start(contender)
            for name in self.contenders:
                self.facts[name] = self._answer(name) or {}
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        for connection in self.connections.values():
            connection.close()
        for process in self.processes.values():
            process.join(0 if error and error[0] else SECONDS_TO_END)
            if process.is_alive():
                process.kill()
                process.join()

    def log(self, name: str) -> Path:
        return self.logs / f"{''.join(c if c.isalnum() else '_' for c in name)}.log"

    def take_turns(
        self, entrants: Sequence[Entrant], rounds: int, until: float, step: Callable[[], None] = lambda: None
    ) -> dict[str, list[dict]]:
        """What each entrant's units gave, round by round: at least one round, and others while there is time."""
        samples: dict[str, list[dict]] = {entrant.name: [] for entrant in entrants}
        for number in range(rounds):
            if number and time.monotonic() >= until:
                break
            for entrant in entrants:
                for _ in range(entrant.units):
                    values = self.turn(entrant)
                if values is not None:
                    samples[entrant.name].append(values)
                step()
        return samples

    def turn(self, entrant: Entrant) -> dict | None:
        """What one unit gave; None where the contender has failed."""
        name = entrant.contender
        if name in self.faults:
            return None
        with suppress(OSError):  # it has died, and `_answer` says how
            self.connections[name].send(entrant.command)
        return self._answer(name)

    def _start(self, contender: Contender) -> None:
        context = multiprocessing.get_context("spawn")
        self.connections[contender.name], theirs = context.Pipe()
        arguments = (theirs, contender.target, contender.is_tuned, str(self.log(contender.name)), contender.arguments)
        process = context.Process(target=perform, args=arguments)
        with _environment(contender.is_tuned):
            process.start()
        theirs.close()  # so that the pipe ends with the process
        self.processes[contender.name] = process

    def _answer(self, name: str) -> dict | None:
        try:
            while not self.connections[name].poll(POLL_SECONDS):
                if time.monotonic() > self.until:
                    self._end(name, "took longer than there was time for; give more --max_seconds")
                    return None
            kind, content = self.connections[name].recv()
        except (EOFError, OSError):
            self.processes[name].join(SECONDS_TO_END)
            code = self.processes[name].exitcode
            self._end(name, f"died (signal {-code})" if code and code < 0 else f"died (exit status {code})")
            return None
        if kind == "failed":
            self._end(name, content)
            return None
        return content

    def _end(self, name: str, reason: str) -> None:
        self.faults[name] = f"{reason}; see {self.log(name)}"
        if self.processes[name].is_alive():
            self.processes[name].kill()


@contextmanager
def _environment(is_tuned: bool):
    """The environment that a new process inherits: as it was before this process tuned itself."""
    held = {} if is_tuned else {key: os.environ.pop(key) for key in TUNED if key in os.environ}
    try:
        yield
    finally:
        os.environ.update(held)
