"""Stations that take no time, for the tests of what runs them."""

import sys
import time
from pathlib import Path

from rhapsode.recipes.options.base import UserError

MOST = 20.0  # seconds to wait for the other station, on a machine that is busy


def note(options, name: str) -> dict:
    with Path(options.output_dir, "order").open("a") as stream:
        stream.write(f"{name}\n")
    print(f"{name} speaks")
    print(f"{name} warns", file=sys.stderr)
    return {"name": name, "seed": options.seed}


def meet(options, name: str, other: str) -> dict:
    """Ends when the other one has begun too."""
    Path(options.output_dir, name).touch()
    start = time.monotonic()
    while not Path(options.output_dir, other).exists():
        if time.monotonic() - start > MOST:
            raise TimeoutError(other)
        time.sleep(0.01)
    return {}


def refuse(options) -> dict:
    raise UserError("--objects 3: too few")


def fail(options) -> dict:
    print("what led to it")
    raise KeyError("a fault of ours")


def fail_once(options) -> dict:
    mark = Path(options.output_dir, "failed")
    if not mark.exists():
        mark.touch()
        raise KeyError("the first time")
    return {"again": True}


def linger(options) -> dict:
    Path(options.output_dir, "lingers").touch()
    time.sleep(600)
    return {}
