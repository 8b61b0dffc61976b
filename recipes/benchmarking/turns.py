"""A contender's side: a process of its own that builds what it measures, and does a unit of work when it is its turn.

contender -> ("ready", facts)        it has built its model and run it once
conductor -> command                 do one unit; None or a closed pipe is the end
contender -> ("done", values)        seconds, processor seconds, memory, and what else the unit gives
contender -> ("failed", reason)      at any time
"""

import gc
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from ..options.base import one_line
from ..process import tune_process


class Turns:
    def __init__(self, connection: Connection):
        self.connection = connection

    def ready(self, **facts) -> None:
        self.connection.send(("ready", facts))

    def wait(self) -> dict | None:
        """The next command, or None at the end."""
        try:
            return self.connection.recv()
        except EOFError:  # whoever conducts is gone
            return None

    def done(self, **values) -> None:
        self.connection.send(("done", values))

    def serve(self, unit: Callable[..., dict]) -> None:
        """A contender whose unit is a function of the command: it gives further values, or its own clock's."""
        while (command := self.wait()) is not None:
            gc.collect()  # nobody pays for what another unit has left
            clock = Clock()
            values = unit(**command)
            self.done(**(clock.read() | values))


class Clock:
    """Seconds on the wall and of all processors since it was made, and the most memory the process has ever held."""

    def __init__(self):
        synchronize()
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        from ..training.hardware import peak_memory_bytes

        synchronize()
        seconds = {
            "seconds": time.perf_counter() - self.wall,
            "processor_seconds": time.process_time() - self.processor,
        }
        return seconds | {"memory_bytes": peak_memory_bytes(device())}


def device():
    import torch

    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def synchronize() -> None:
    import torch

    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def perform(connection: Connection, target: str, is_tuned: bool, log: str, arguments: dict) -> None:
    """The whole life of a contender's process: `target` is `module:function`, which is given its `Turns`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the conductor's, who ends us
    with Path(log).open("w", buffering=1, encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        try:
            if is_tuned:
                tune_process()
            module, _, function = target.partition(":")
            getattr(importlib.import_module(module), function)(Turns(connection), **arguments)
        except BaseException as error:
            traceback.print_exc()
            sys.stderr.flush()
            is_missing = isinstance(error, ModuleNotFoundError)
            reason = f"not installed: {error.name}" if is_missing else f"{type(error).__name__}: {one_line(error, 200)}"
            connection.send(("failed", reason))
            os._exit(1)
