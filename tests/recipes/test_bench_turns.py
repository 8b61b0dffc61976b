"""`rhapsode bench`: contenders in processes of their own take turns, and whoever fails is named and left out."""

import os
import time

import pytest
from rhapsode.recipes.benchmarking.interleaving import OURS, PEER, TUNED, Contender, Entrant, Stage

HERE = "bench_contenders"
LONG = 120.0  # seconds: on a busy machine a process takes its time to start


def contender(name: str, diary, value: float = 1.0, timed: bool = False, **settings) -> Contender:
    arguments = {"name": name, "diary": str(diary), "value": value, "timed": timed}
    return Contender(name, f"{HERE}:honest", OURS, arguments, **settings)


def test_contenders_take_turns_and_the_rounds_of_one_are_beside_those_of_another(tmp_path, monkeypatch):
    for key in TUNED:
        monkeypatch.setenv(key, "1")
    diary, steps = tmp_path / "diary", []
    contenders = [contender("A", diary, timed=True), contender("B", diary, 3.0, is_tuned=False)]
    entrants = [Entrant("first", "A"), Entrant("second", "B"), Entrant("third", "A", {"case": 2})]
    with Stage(contenders, tmp_path / "logs", time.monotonic() + LONG) as stage:
        assert stage.facts == {"A": {"tuned": list(TUNED)}, "B": {"tuned": []}}
        assert [key for key in TUNED if key in os.environ] == list(TUNED)
        samples = stage.take_turns(entrants, 3, time.monotonic() + LONG, lambda: steps.append(0))
    assert diary.read_text().split() == ["A", "B", "A2"] * 3
    assert {name: [s["value"] for s in rows] for name, rows in samples.items()} == {
        "first": [1.0, 3.0, 5.0],
        "second": [3.0, 6.0, 9.0],
        "third": [2.0, 4.0, 6.0],
    }
    for sample in samples["first"]:
        assert 0 <= sample["seconds"] < LONG and sample["processor_seconds"] >= 0 and sample["memory_bytes"] > 2**20
    assert len(steps) == 9 and not stage.faults
    assert not any(process.is_alive() for process in stage.processes.values())


def test_without_time_there_is_one_round(tmp_path):
    with Stage([contender("A", tmp_path / "diary")], tmp_path / "logs", time.monotonic() + LONG) as stage:
        samples = stage.take_turns([Entrant("A", "A")], 5, time.monotonic() - 1)
    assert [s["value"] for s in samples["A"]] == [1.0]


def test_of_several_units_in_a_turn_the_last_counts(tmp_path):
    with Stage([contender("A", tmp_path / "diary")], tmp_path / "logs", time.monotonic() + LONG) as stage:
        samples = stage.take_turns([Entrant("A", "A", units=3)], 2, time.monotonic() + LONG)
    assert [s["value"] for s in samples["A"]] == [3.0, 6.0]


def test_whoever_fails_is_left_out_with_the_reason_and_the_others_go_on(tmp_path):
    reasons = {
        "raises": "RuntimeError: no more memory; see ",
        "exits": "died (exit status 3); see ",
        "killed": "died (signal 9); see ",
        "hangs": "took longer than there was time for; give more --max_seconds; see ",
    }
    contenders = [Contender(how, f"{HERE}:broken", PEER, {"how": how}) for how in reasons]
    missing = Contender("missing (1)", "no_such_module:train", PEER)
    everyone = [missing, contender("A", tmp_path / "diary"), *contenders]
    entrants = [Entrant(each.name, each.name) for each in everyone]
    with Stage(everyone, tmp_path / "logs", time.monotonic() + LONG) as stage:
        assert stage.faults["missing (1)"].startswith("not installed: no_such_module; see ")
        first = stage.take_turns(entrants, 1, time.monotonic() + LONG)
        stage.turn(entrants[2]), stage.turn(entrants[3]), stage.turn(entrants[4])
        stage.until = time.monotonic()
        stage.turn(entrants[5])
        stage.until = time.monotonic() + LONG
        rest = stage.take_turns(entrants, 2, time.monotonic() + LONG)
    for how, reason in reasons.items():
        assert stage.faults[how] == f"{reason}{stage.log(how)}"
    assert "its last words" in stage.log("raises").read_text() and "Traceback" in stage.log("raises").read_text()
    assert [len(samples) for samples in first.values()] == [0, 1, 1, 1, 1, 1]
    assert [len(samples) for samples in rest.values()] == [0, 2, 0, 0, 0, 0]
    assert not any(process.is_alive() for process in stage.processes.values())


def test_ctrl_c_ends_the_processes(tmp_path):
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117
        with Stage([contender("A", tmp_path / "diary")], tmp_path / "logs", time.monotonic() + LONG) as stage:
            raise KeyboardInterrupt
    assert not stage.processes["A"].is_alive()
