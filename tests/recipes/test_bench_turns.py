"""`rhapsode bench`: contenders in processes of their own take turns, and whoever fails is named and left out."""

import os
import time

import pytest
from rhapsode.recipes.benchmarking.interleaving import OURS, PEER, TUNED, Contender, Entrant, Stage

HERE = "bench_contenders"
LONG = 120.0  # seconds: on a busy machine a process takes its time to start


def contender(name: str, diary, value: float = 1.0, **settings) -> Contender:
    arguments = {"name": name, "diary": str(diary), "value": value}
    return Contender(name, f"{HERE}:honest", OURS, arguments, **settings)


def test_contenders_take_turns_and_the_rounds_of_one_are_beside_those_of_another(tmp_path, monkeypatch):
    for key in TUNED:
        monkeypatch.setenv(key, "1")
    diary, steps = tmp_path / "diary", []
    contenders = [contender("A", diary), contender("B", diary, 3.0, is_tuned=False)]
    entrants = [Entrant("first", "A"), Entrant("second", "B"), Entrant("third", "A", {"case": 2})]
    with Stage(contenders, tmp_path / "logs", time.monotonic() + LONG) as stage:
        assert stage.facts == {"A": {"tuned": list(TUNED)}, "B": {"tuned": []}}
        assert [key for key in TUNED if key in os.environ] == list(TUNED)
        samples = stage.take_turns(entrants, 3, time.monotonic() + LONG, lambda: steps.append(0))
        processes = list(stage.processes.values())
    assert diary.read_text().split() == ["A", "B", "A2"] * 3
    assert {name: [s["value"] for s in rows] for name, rows in samples.items()} == {
        "first": [1.0, 3.0, 5.0],
        "second": [3.0, 6.0, 9.0],
        "third": [2.0, 4.0, 6.0],
    }
    for sample in samples["first"]:
        assert 0 <= sample["seconds"] < LONG and sample["processor_seconds"] >= 0 and sample["memory_bytes"] > 2**20
    assert len(steps) == 9 and not stage.faults
    assert [process.exitcode for process in processes] == [0, 0]


def test_without_time_there_is_one_round(tmp_path):
    with Stage([contender("A", tmp_path / "diary")], tmp_path / "logs", time.monotonic() + LONG) as stage:
        samples = stage.take_turns([Entrant("A", "A")], 5, time.monotonic() - 1)
    assert [s["value"] for s in samples["A"]] == [1.0]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raises", "RuntimeError: no more memory; see "),
        ("exits", "died (exit status 3); see "),
        ("killed", "died (signal 9); see "),
        ("hangs", "took longer than there was time for; give more --max_seconds; see "),
    ],
)
def test_whoever_fails_is_left_out_with_the_reason_and_the_others_go_on(tmp_path, how, reason):
    broken = Contender("B (bad)", f"{HERE}:broken", PEER, {"how": how})
    with Stage([contender("A", tmp_path / "diary"), broken], tmp_path / "logs", time.monotonic() + LONG) as stage:
        entrants = [Entrant("B", "B (bad)"), Entrant("A", "A")]
        first = stage.take_turns(entrants, 1, time.monotonic() + LONG)
        stage.until = time.monotonic() + (0 if how == "hangs" else LONG)
        stage.turn(Entrant("B", "B (bad)"))
        stage.until = time.monotonic() + LONG
        rest = stage.take_turns(entrants, 2, time.monotonic() + LONG)
    assert stage.faults["B (bad)"].startswith(reason)
    log = stage.log("B (bad)")
    assert str(log) in stage.faults["B (bad)"] and "\n" not in stage.faults["B (bad)"]
    assert how != "raises" or ("its last words" in log.read_text() and "Traceback" in log.read_text())
    assert [len(first[name]) for name in ("A", "B")] == [1, 1]
    assert [len(rest[name]) for name in ("A", "B")] == [2, 0]
    assert all(not process.is_alive() for process in stage.processes.values())


def test_who_cannot_be_built_is_left_out_before_the_first_turn(tmp_path):
    missing = Contender("C", "no_such_module:train", PEER)
    with Stage([missing, contender("A", tmp_path / "diary")], tmp_path / "logs", time.monotonic() + LONG) as stage:
        samples = stage.take_turns([Entrant("C", "C"), Entrant("A", "A")], 1, time.monotonic() + LONG)
    assert stage.faults["C"].startswith("ModuleNotFoundError: No module named 'no_such_module'; see ")
    assert (len(samples["A"]), samples["C"]) == (1, [])


def test_ctrl_c_ends_the_processes(tmp_path):
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117
        with Stage([contender("A", tmp_path / "diary")], tmp_path / "logs", time.monotonic() + LONG) as stage:
            raise KeyboardInterrupt
    assert not stage.processes["A"].is_alive()
