"""Speed and memory beside what else trains and runs the same weights, against what the machine can do at most.

Every contender is a process of its own; they take turns, and a figure is the median of its rounds, a ratio the median
of the rounds' ratios. `recipes/benchmarking/` has the contenders, a section a file.
"""

import importlib
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from .benchmarking import table
from .benchmarking.bench import Bench
from .benchmarking.figures import Figure
from .benchmarking.goals import goals
from .benchmarking.machine import about, installed_peers
from .benchmarking.plot import plot
from .benchmarking.work import prepare_design, prepare_text
from .cli import run_command
from .options.base import RESOLVED, save_resolved, write_whole
from .options.bench import SECTIONS, BenchOptions
from .options.output import check_output
from .reporting.pages import write_report_files


def run(options: BenchOptions) -> None:
    started = time.monotonic()
    directory = check_output(options, "bench")
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Beside the output, and not where temporary files are, which may be memory: checkpoints are written there.
    with tempfile.TemporaryDirectory(prefix=".unfinished-bench-", dir=directory.parent) as work:
        bench = prepare(options, directory, Path(work).absolute(), started)
        about_all = about(options, bench.designs) | {"peers": installed_peers(options.peers)}
        sections, figures = [name for name in SECTIONS if name in options.measure], []
        with tqdm(desc="measuring", unit="unit", file=sys.stderr, dynamic_ncols=True) as bench.bar:
            for i, section in enumerate(sections):
                bench.begin(sections[i:])
                bench.bar.set_postfix_str(f"{section}: starting")
                figures += importlib.import_module(f".benchmarking.{section}", __package__).measure(bench)
                # After each section, so that whoever stops it keeps what has been measured.
                results = about_all | {"seconds": time.monotonic() - started, "finished": section == sections[-1]}
                results, text = write(bench, figures, results)
    print(json.dumps(results) if options.json else text)


def write(bench: Bench, figures: list[Figure], results: dict) -> tuple[dict, str]:
    """results.json, report.md and bench.png; what is in the first two."""
    results |= {
        "goals": [goal.as_json() for goal in goals(figures)],
        "figures": [figure.as_json() for figure in figures],
        "checks": bench.checks,
        "faults": bench.faults,
        "samples": bench.samples,
    }
    text = table.report(figures, results)
    write_whole(bench.directory / "results.json", json.dumps(results, indent=1))
    plot(figures, bench.directory / "bench.png")
    write_report_files(bench.directory / "report.md", f"{text}\n\n![bench](bench.png)\n")
    return results, text


def prepare(options: BenchOptions, directory: Path, work: Path, started: float) -> Bench:
    """The work is made before the directory is: options that do not fit together write nothing."""
    prepare_text(options, work)
    designs = [prepare_design(options, name, work) for name in options.preset]
    if directory.exists() and options.overwrite_output_dir:
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_resolved(options, directory / RESOLVED, "bench")
    return Bench(options, directory, work, designs, started + options.max_seconds)


if __name__ == "__main__":
    sys.exit(run_command("bench", sys.argv[1:]))
