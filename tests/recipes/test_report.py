"""Reports of runs that ended, go on, were killed or are old: what is there is shown, nothing else is claimed."""

import json
import math
from pathlib import Path

import pytest
import yaml
from matplotlib.image import imread
from rhapsode.recipes import report as command
from rhapsode.recipes.options.base import RESOLVED, UserError
from rhapsode.recipes.options.report import ReportOptions
from rhapsode.recipes.reporting import report
from rhapsode.recipes.reporting.curves import _series, plot_curves, progress_figure, running_mean, skipped_at
from rhapsode.recipes.reporting.report import read_run, run_names, save_facts, summary, write_report
from rhapsode.recipes.reporting.tables import seconds, table

FACTS = {
    **{"parameters": 1_000_000, "precision": "float32 master weights", "processes": 2, "total_steps": 200},
    "data": {"documents": 50, "tokens": 9_000, "padding_share": 0.0123, "cut_share": 0.25},
}
RESULTS = {
    **{"step": 200, "tokens": 20_000, "seconds": 400.0, "eval_loss": 2.5, "eval_perplexity": math.exp(2.5)},
    **{"eval_bits_per_byte": 1.25, "eval_tokens": 70, "eval_bytes": 700, "samples": [["once", " upon | a time"]]},
    "baselines": {"gzip -9": 1.9},
}
ENERGY = {"energy_kwh": 0.002, "energy_kind": "estimated", "cpu_energy_kwh": 0.0015, "cpu_energy_kind": "measured"}


def lines(steps: int) -> list[dict]:
    rows = []
    for step in range(10, steps + 1, 10):
        rows.append(
            {
                **{"step": step, "loss": 2 + 20 / step, "learning_rate": 1e-3, "grad_norm": 0.5, "epoch": step / 150},
                **{"update_norm": 0.1, "update_ratio": 1e-3, "tokens": 100 * step, "seconds": 2.0 * step},
                **{"tokens_per_second": 50.0 + step, "mfu": 0.3, "mfu_peak": "measured", "memory_bytes": 2**30 + step},
                **{"skipped_steps": int(step >= 50) + int(step >= 120), "eval_seconds": 75.0, **ENERGY},
            }
        )
        if step % 50 == 0:
            rows.append({"step": step, "eval_loss": 2.1 + 20 / step, "eval_bits_per_byte": 1.3})
    return rows


@pytest.fixture
def make_run(tmp_path):
    def make(name: str, steps: int = 200, finished: bool = True, **options):
        directory = tmp_path / name
        directory.mkdir(parents=True)
        (directory / RESOLVED).write_text(yaml.safe_dump({"output_dir": name, "seed": 0, **options}))
        (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines(steps)))
        save_facts(directory, FACTS)
        for step in (100, 200):
            (directory / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
            (directory / "checkpoints" / f"step-{step:08d}" / "model.safetensors").write_bytes(bytes(2**20))
        if finished:
            (directory / "results.json").write_text(json.dumps(RESULTS))
        return directory

    return make


@pytest.fixture
def without_curves(monkeypatch):
    """Drawing takes half a second of processor time each."""
    for name in ("plot_curves", "plot_progress"):
        monkeypatch.setattr(report, name, lambda *given: next(p for p in given if isinstance(p, Path)).touch())


def report_of(directory, target=None) -> str:
    return write_report(directory, target).read_text(encoding="utf-8")


def test_a_finished_run(make_run):
    directory = make_run("done")
    text = report_of(directory)
    for line in (
        *("| validation loss, nats per token | 2.5000 |", "| gzip -9 | 1.9000 bits per byte |"),
        *("| precision | float32 master weights |", "| processes | 2 |", "| steps | 200 |", "| of them skipped | 2 |"),
        *("| padding | 1.2% |", "| documents that were cut | 25.0% |", "| training | 6 min 40 s |"),
        *("| evaluation on the way | 1 min 15 s |", "| tokens per second, median | 155 |"),
        *("| MFU, median (measured peak) | 30.0% |", "| energy (estimated) | 2 Wh |"),
        *("| of it processors (measured) | 1.5 Wh |", "| `step-00000100` | 1.0 MiB | 2.2000 | 2.3000 |"),
        *("once▌ upon | a time", "seed: 0"),
    ):
        assert line in text, line
    assert "Unfinished" not in text
    pixels = imread(directory / "curves.png")
    assert min(pixels.shape[:2]) > 600 and pixels.std() > 0.01  # not blank
    assert not list(directory.glob(".unfinished*"))


def test_a_run_that_goes_on_or_was_killed(make_run, without_curves):
    """No results.json, and a last line that a kill cut off."""
    directory = make_run("going", steps=120, finished=False)
    with (directory / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 130, "lo')
    text = report_of(directory)
    assert "**Unfinished**: at step 120 of 200 (60%)." in text
    assert "| validation loss, nats per token | 2.3000 |" in text
    assert f"| validation perplexity | {math.exp(2.3):.2f} |" in text
    assert "Samples" not in text
    assert (directory / "metrics.jsonl").read_text().endswith('{"step": 130, "lo')  # it is not ours to mend


def test_results_of_an_earlier_end_are_not_those_of_a_run_that_went_on(make_run, without_curves):
    directory = make_run("longer", steps=300)
    values = summary(read_run(directory))
    assert not values["finished"] and values["eval_loss"] == pytest.approx(2.1 + 20 / 300)
    assert "| steps | 300 |" in report_of(directory) and "once▌" not in report_of(directory)


def test_a_run_that_has_not_logged_a_step(make_run, without_curves):
    directory = make_run("fresh", steps=0, finished=False)
    assert "No step has been logged yet." in report_of(directory)
    (directory / "metrics.jsonl").unlink()
    assert "No step has been logged yet." in report_of(directory)


def test_every_figure_may_be_missing(make_run, without_curves):
    """An older run, or a later one: no key is required, and none that is absent is shown."""
    directory = make_run("old")
    for name in ("run.json", "results.json", RESOLVED):
        (directory / name).unlink()
    for key in (*lines(50)[0], "eval_loss", "eval_bits_per_byte"):
        rows = [{k: v for k, v in row.items() if k != key or k == "step"} for row in lines(200)]
        (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        text = report_of(directory)
        assert "None" not in text and "nan" not in text
    (directory / "metrics.jsonl").write_text('{"step": 1, "loss": null}\n{"step": 2, "grad_norm": 0.0}\n')
    assert "| steps | 2 |" in report_of(directory)


def test_a_figure_without_its_mark_or_unknown_facts_do_no_harm(make_run, without_curves):
    directory = make_run("odd")
    save_facts(directory, {"data": None, "something": {"new": [1]}})
    rows = [{"step": 1, "loss": 2.0, "mfu": 0.25}]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "| MFU, median | 25.0% |" in report_of(directory)


def test_several_runs_give_one_comparison(make_run, tmp_path, capsys):
    runs = [make_run("a/model"), make_run("b/model", steps=120, finished=False, seed=1)]
    target = tmp_path / "comparison"
    command.run(ReportOptions(runs=[str(run) for run in runs], output_dir=str(target)))
    assert capsys.readouterr().out == f"{target / 'report.md'}\n"
    text = (target / "report.md").read_text()
    for line in (
        *("|  | a/model | b/model |", "| finished | yes | no |", "| steps | 200 | 120 |"),
        *("| validation loss, nats per token | 2.5000 | 2.3000 |", "| seed | 0 | 1 |"),
        *("| energy | 2 Wh (estimated) | 2 Wh (estimated) |", "| validated on, tokens | 70 |  |"),
    ):
        assert line in text, line
    assert "output_dir" not in text
    assert sorted(path.name for path in target.iterdir()) == ["curves.png", "progress.png", "report.html", "report.md"]
    assert (target / "report.html").read_text().count('src="data:image/png;base64,') == 2
    assert not (runs[0] / "report.md").exists()


def test_json(make_run, capsys, without_curves):
    runs = [str(make_run("one")), str(make_run("two", steps=120, finished=False))]
    command.run(ReportOptions(runs=runs[:1], json=True))
    one = json.loads(capsys.readouterr().out)
    assert one["finished"] is True and one["eval_bits_per_byte"] == 1.25 and one["data_padding_share"] == 0.0123
    assert one["best_eval_loss_step"] == 200 and one["report"] == f"{runs[0]}/report.md"
    assert one["checkpoints"] == ["checkpoints/step-00000100", "checkpoints/step-00000200"]
    command.run(ReportOptions(runs=runs, json=True, output_dir=runs[0] + "-comparison"))
    assert [values["finished"] for values in json.loads(capsys.readouterr().out)] == [True, False]


def test_bad_input_is_one_line(make_run, tmp_path):
    with pytest.raises(UserError, match="nowhere is no directory"):
        command.run(ReportOptions(runs=[str(tmp_path / "nowhere")]))
    with pytest.raises(UserError, match="holds no run"):
        command.run(ReportOptions(runs=[str(tmp_path)]))
    with pytest.raises(UserError, match="name at least one"):
        ReportOptions(runs=[])
    with pytest.raises(UserError, match="x is named twice"):
        ReportOptions(runs=["x", "y", "x"])
    directory = make_run("damaged")
    (directory / "results.json").write_text('{"step": ')
    with pytest.raises(UserError, match=r"results\.json is damaged"):
        command.run(ReportOptions(runs=[str(directory)]))


# the parts


@pytest.mark.parametrize("rows", [[], [{"step": 1, "loss": None}, {"step": 2, "grad_norm": 0.0, "mfu": 0.0}]])
def test_curves_of_next_to_nothing(rows, tmp_path):
    plot_curves({"none": rows}, tmp_path / "curves.png")
    assert imread(tmp_path / "curves.png").std() > 0


def test_evaluations_stand_at_the_tokens_of_their_step():
    rows = [{"step": 1, "tokens": 10, "loss": 1.0}, {"step": 1, "eval_loss": 2.0}, {"step": 2, "tokens": 20}]
    assert _series(rows, "eval_loss") == ([10], [2.0])
    assert _series([*rows, {"step": 3, "loss": None}], "loss") == ([10], [1.0])


def test_progress_is_drawn_over_four_measures_of_effort():
    """A run without FLOPs, an alignment run for one, is left out of that panel alone."""
    rows = [{"step": 10, "tokens": 100, "seconds": 7.0, "loss": 3.0}, {"step": 10, "eval_loss": 2.5}]
    axes = progress_figure({"a": rows, "b": rows}, {"a": 6e3, "b": None}).axes
    expected = {"tokens": 100, "steps": 10, "seconds of training": 7.0, "FLOPs": 6e5}
    assert {axis.get_xlabel(): axis.lines[1].get_xdata()[0] for axis in axes} == expected
    assert [len(axis.lines) for axis in axes] == [4, 4, 4, 2]
    assert [line.get_ydata()[0] for line in axes[0].lines] == [3.0, 2.5, 3.0, 2.5]


def test_skipped_steps_are_where_their_count_grows():
    counts = [0, 0, 1, 1, 3, None]
    rows = [{"tokens": 10 * i} | ({} if c is None else {"skipped_steps": c}) for i, c in enumerate(counts)]
    assert skipped_at(rows) == [20, 40]


def test_the_running_mean_follows_a_line_and_not_a_spike():
    x, y = list(range(400)), [3.0 * i for i in range(400)]
    at, means = running_mean(x, y)
    assert at == x and means == pytest.approx(y)
    y[200] = 1e9
    assert running_mean(x, y)[1][190:211] == pytest.approx([3.0 * i for i in range(190, 211)], abs=6.0)
    assert len(running_mean(list(range(5000)), [1.0] * 5000)[0]) <= 1000


def test_names_tell_runs_apart(tmp_path):
    assert run_names([tmp_path / "a" / "m", tmp_path / "b" / "m"]) == ["a/m", "b/m"]
    assert run_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]


def test_cells():
    assert table(["a|b"], [["c\nd"]], 0) == "| a\\|b |\n|---:|\n| c d |"
    assert [seconds(s) for s in (3.21, 59.9, 125, 3600, 360_000)] == (
        ["3.2 s", "59.9 s", "2 min 05 s", "1 h 00 min", "100 h 00 min"]
    )
