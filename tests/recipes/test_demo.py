"""The demo: its stations run in the order of their needs, two at a time, and once; what it prints; all of it, tiny."""

import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rhapsode.recipes import demo
from rhapsode.recipes.cli import main
from rhapsode.recipes.demonstration.schedule import run_stations
from rhapsode.recipes.demonstration.showing import assistant, cell, show
from rhapsode.recipes.demonstration.stations import STATIONS, Station
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.options.demo import DemoOptions
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification


def station(name: str, needs=(), function="note", arguments=None) -> Station:
    return Station(
        name, f"the {name}", tuple(needs), f"demo_stations:{function}", (name,) if arguments is None else arguments
    )


@pytest.fixture
def options(tmp_path) -> DemoOptions:
    return DemoOptions(output_dir=str(tmp_path / "demo"), seed=3)


def test_stations_follow_their_needs_and_run_once(options, tmp_path, seed, capsys):
    graph = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c"), "e": ()}
    shuffled = [station(name, needs) for name, needs in graph.items()]
    random.Random(seed).shuffle(shuffled)
    done = run_stations(tuple(shuffled), options)
    order = (tmp_path / "demo" / "order").read_text().split()
    assert sorted(order) == sorted(graph)
    assert all(order.index(need) < order.index(name) for name, needs in graph.items() for need in needs)
    assert all(done[name]["found"] == {"name": name, "seed": 3} for name in graph)
    assert sorted((tmp_path / "demo" / "logs" / "d.log").read_text().splitlines()) == ["d speaks", "d warns"]
    assert "speaks" not in capsys.readouterr().out, "what stations print goes into their logs"

    (tmp_path / "demo" / "stations" / "d.json").write_text('{"seconds": 1')  # damaged: as if it had never run
    again = run_stations(tuple(shuffled), options)
    assert (tmp_path / "demo" / "order").read_text().split()[5:] == ["d"]
    assert {name: again[name]["found"] for name in graph} == {name: done[name]["found"] for name in graph}


def test_two_run_at_a_time(options):
    pair = (station("x", (), "meet", ("x", "y")), station("y", (), "meet", ("y", "x")))
    assert run_stations(pair, options).keys() == {"x", "y"}


def test_faults_of_stations(options, tmp_path):
    with pytest.raises(UserError, match="--objects 3: too few"):
        run_stations((station("wrong", (), "refuse", ()),), options)
    with pytest.raises(RuntimeError, match=r"the broken: see .*logs/broken\.log") as raised:
        run_stations((station("broken", (), "fail", ()),), options)
    assert isinstance(raised.value.__cause__, KeyError)
    assert "what led to it" in (tmp_path / "demo" / "logs" / "broken.log").read_text()


def test_interrupted_demo_goes_on(options, tmp_path):
    both = (station("first"), station("second", ("first",), "fail_once", ()))
    with pytest.raises(RuntimeError):
        run_stations(both, options)
    assert run_stations(both, options)["second"]["found"] == {"again": True}
    assert (tmp_path / "demo" / "order").read_text().split() == ["first"]


def test_ctrl_c_ends_the_workers_too(tmp_path):
    """Also where only the first process gets the signal, as from `kill -INT`."""
    program = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "from rhapsode.recipes.demonstration.schedule import run_stations\n"
        "from rhapsode.recipes.demonstration.stations import Station\n"
        "from rhapsode.recipes.options.demo import DemoOptions\n"
        "if __name__ == '__main__':\n"
        "    station = Station('slow', 'the slow', (), 'demo_stations:linger')\n"
        f"    run_stations((station,), DemoOptions(output_dir={str(tmp_path)!r}))\n"
    )
    (tmp_path / "program.py").write_text(program)
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths}
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")], env=environment, stderr=subprocess.PIPE, start_new_session=True
    )
    start = time.monotonic()
    while not (tmp_path / "lingers").exists() and time.monotonic() - start < 300:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)  # the pipe is open for as long as a worker lives
    assert process.returncode != 0
    assert b"KeyboardInterrupt" in said


def test_every_station_has_its_function_and_its_needs():
    names = [s.name for s in STATIONS]
    assert len(set(names)) == len(names)
    for s in STATIONS:
        module, function = s.work.split(":")
        assert callable(getattr(importlib.import_module(module, "rhapsode.recipes.demonstration"), function))
        assert set(s.needs) < set(names), s


def test_directories_of_others_and_other_options_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "run_stations", lambda stations, options: pytest.fail("it began"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    for flags in ([], ["--overwrite_output_dir"]):
        assert main(["demo", "--output_dir", str(tmp_path / "mine"), *flags]) == 2
    assert (tmp_path / "mine" / "thesis.txt").exists()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config_resolved.yaml").write_text("# rhapsode demo --config x\nseed: 1\n")
    assert main(["demo", "--output_dir", str(tmp_path / "old")]) == 2
    assert main(["demo", "--effort", "0"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "holds files that are not a demo run's" in said[0]
    assert "seed=0, but the run in" in said[2]
    assert "--effort 0.0 must be above 0" in said[3]


RESULTS = {
    "model": {"parameters": 10_600_000, "eval_bits_per_byte": 1.5, "eval_bytes": 1000},
    "baselines": {"gzip -9": 1.9},
    "sample": {"text": "def f():\n    pass"},
    "export": {"text": "def g()"},
    "chat_base": {"parameters": 1_000_000},
    "chat": {"real": {"question": "What is it?", "answer": "A thing.", "reference": "A thing."}},
    "seconds": {"SFT": 12.0},
    "seconds_together": 20.0,
}
MEASURED = {"judge": 0.5, "exact_on_real": 0.25, "abstention_precision": 0.75, "abstention_recall": 0.125, "kl": 1.5}


def test_what_is_shown(tmp_path):
    counts = {"n": 8, "n_invented": 4, "n_abstained": 2}
    results = RESULTS | {f"measure_{name}": MEASURED | counts for name in ("base", "sft", "dpo", "ppo")}
    results["measure_base"] = MEASURED | counts | {"n_abstained": 0, "abstention_precision": 0.0}
    rows = {line.split()[0]: line.split()[1:] for line in assistant(results).splitlines()[4:8]}
    assert rows["PPO"] == ["0.50", "0.25", "0.75", "0.12", "1.5", "nats"]
    assert rows["base"] == ["0.50", "0.25", "-", "0.12", "1.5", "nats"], "a share of nothing is no number"
    assert rows.keys() == {"base", "SFT", "DPO", "PPO"}
    assert cell("judge", MEASURED) == "0.50"
    assert "SFT has learned too little" in assistant(results)
    learned = results | {"measure_sft": results["measure_sft"] | {"exact_on_real": 0.95}}
    assert "SFT has learned too little" not in assistant(learned)
    text = show(results, tmp_path)
    for part in (
        "  | def f():",
        "A thing.",
        f"rhapsode chat --model {tmp_path / 'ppo'}",
        "gzip -9",
        "12.0 s",
        "20.0 s",
    ):
        assert part in text


@pytest.mark.slow  # four trainings and their evaluation, two minutes of CPU
def test_all_of_it_at_a_tiny_scale(tmp_path, capsys):
    root = tmp_path / "demo"
    flags = ["demo", "--output_dir", str(root), "--max_seconds", "2", "--objects", "40", "--effort", "0.05"]
    assert main(flags) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    results = json.loads((root / "results.json").read_text())
    for name in ("base", "sft", "dpo", "ppo"):
        found = results[f"measure_{name}"]
        assert found["n"] > 0
        assert f"{found['judge']:.2f}" in said
    for name in ("model", "chat_base", "sft", "dpo", "ppo"):
        AutoModelForCausalLM.from_pretrained(root / name)
        assert (root / name / "report.md").exists()
    AutoModelForSequenceClassification.from_pretrained(root / "reward")
    assert len(results["chat"]) == 3
    shutil.rmtree(root / "ppo")
    (root / "stations" / "ppo.json").unlink()
    assert main(flags) == 0, capsys.readouterr().err
    assert json.loads((root / "results.json").read_text())["measure_sft"] == results["measure_sft"]
    assert (root / "ppo" / "model.safetensors").exists()
