"""Contenders for the tests of `rhapsode bench` that take no time: what they are told, they write down."""

import os
import signal
import time
from pathlib import Path

from rhapsode.recipes.benchmarking.interleaving import TUNED


def honest(turns, name: str, diary: str, value: float, timed: bool) -> None:
    """Writes its name down at each turn; its values grow by `value`."""
    turns.ready(tuned=[key for key in TUNED if key in os.environ])
    count = 0

    def unit(**command) -> dict:
        nonlocal count
        count += 1
        with Path(diary).open("a") as file:
            file.write(f"{name}{command.get('case', '')} ")
        return {"value": value * count}

    if timed:
        turns.serve(unit)
    while (command := turns.wait()) is not None:  # without a clock, which loads torch
        turns.done(**unit(**command))


def broken(turns, how: str) -> None:
    """Is ready, does one unit, and then fails in one of the ways in which programs do."""
    turns.ready()
    turns.wait()
    turns.done(value=1.0)
    turns.wait()
    print("its last words")
    if how == "raises":
        raise RuntimeError("no more\nmemory")
    if how == "exits":
        os._exit(3)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # hangs
