"""The demo: every station from raw text to a published base model and to an assistant, with the time that each takes.

It only calls the other commands, so that each of its stations can be run by hand; `demonstration/stations.py` has them.
"""

import importlib.util
import json
import shutil
import sys
import time

from .cli import run_command
from .demonstration.schedule import run_stations
from .demonstration.showing import show
from .demonstration.stations import STATIONS
from .options.base import RESOLVED, save_resolved, write_whole
from .options.demo import DemoOptions
from .options.output import check_output


def run(options: DemoOptions) -> None:
    for package in ("trl", "peft"):  # in ten minutes would be late
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(package, name=package)
    root, start = check_output(options, "demo"), time.perf_counter()
    if options.overwrite_output_dir:
        shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True, exist_ok=True)
    save_resolved(options, root / RESOLVED, "demo")
    done = run_stations(STATIONS, options)
    results = {name: record["found"] for name, record in done.items() if record["found"]}
    results["seconds"] = {s.title: done[s.name]["seconds"] for s in STATIONS}
    results["seconds_together"] = time.perf_counter() - start
    write_whole(root / "results.json", json.dumps(results, indent=1))
    print(show(results, root))


if __name__ == "__main__":
    sys.exit(run_command("demo", sys.argv[1:]))
