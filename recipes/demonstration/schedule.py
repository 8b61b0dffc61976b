"""Runs stations, each as soon as what it needs is done, as many at a time as there are workers.

A worker is a process that imports torch and trl once. Every station ends with a file in `stations/`, and one that has
it is not run again; what it says goes into `logs/`. Matrices as small as the demo's gain little from a second thread:
two stations at a time, a core each, are nearly twice as fast as one after the other.
"""

import importlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from ..options.base import UserError, write_whole
from ..options.demo import DemoOptions
from ..process import tune_process
from .stations import Station

WORKERS = 2
DONE, LOGS = "stations", "logs"


def run_stations(stations: tuple[Station, ...], options: DemoOptions) -> dict[str, dict]:
    """`seconds` and `found`, what its function returned, of each station; those that are done are not run again.

    Raises:
        UserError: that of a station.
    """
    root = Path(options.output_dir)
    for folder in (DONE, LOGS):
        (root / folder).mkdir(parents=True, exist_ok=True)
    done = {s.name: found for s in stations if (found := finished(root, s))}
    for station in (s for s in stations if s.name in done):
        print(f"done before: {station.title}", file=sys.stderr)
    with workers() as pool:
        running: dict[Future, Station] = {}
        start = time.perf_counter()
        while len(done) < len(stations):
            started = {*done, *(s.name for s in running.values())}
            ready = [s for s in stations if s.name not in started and done.keys() >= set(s.needs)]
            for station in ready[: WORKERS - len(running)]:
                say(start, f"begins: {station.title}")
                running[pool.submit(work, station, options)] = station
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                station = running.pop(future)
                done[station.name] = result(future, station, root)
                say(start, f"done:   {station.title}, {done[station.name]['seconds']:.1f} s")
    return done


def finished(root: Path, station: Station) -> dict | None:
    try:
        return dict(json.loads((root / DONE / f"{station.name}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # not yet, or damaged
        return None


@contextmanager
def workers() -> Iterator[ProcessPoolExecutor]:
    """Their threads share the cores. They end with this process, also where it alone gets the signal."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // WORKERS)))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, mp_context=context, initializer=tune_process) as pool:
        try:
            yield pool
        except BaseException:
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def work(station: Station, options: DemoOptions) -> dict:
    """In a worker: the station, and the file that says that it is done."""
    root = Path(options.output_dir)
    module, name = station.work.split(":")
    with output_to(root / LOGS / f"{station.name}.log"):
        start = time.perf_counter()
        function = getattr(importlib.import_module(module, __package__), name)
        found = function(options, *station.arguments)
        record = {"seconds": time.perf_counter() - start, "found": found}
        write_whole(root / DONE / f"{station.name}.json", json.dumps(record, indent=1))
    return record


def result(future: Future, station: Station, root: Path) -> dict:
    try:
        return future.result()
    except UserError:
        raise
    except Exception as error:
        raise RuntimeError(f"{station.title}: see {root / LOGS / station.name}.log") from error


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Everything that this process and those that it starts print goes into the file."""
    kept = {stream: os.dup(stream.fileno()) for stream in (sys.stdout, sys.stderr)}
    with path.open("w", encoding="utf-8") as log:
        for stream in kept:
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())
        try:
            yield
        finally:
            for stream, descriptor in kept.items():
                stream.flush()
                os.dup2(descriptor, stream.fileno())
                os.close(descriptor)


def say(start: float, text: str) -> None:
    minutes, seconds = divmod(int(time.perf_counter() - start), 60)
    print(f"{minutes:3}:{seconds:02}  {text}", file=sys.stderr, flush=True)
