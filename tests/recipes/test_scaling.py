"""The ladder: what it trains, that the prediction comes first, that nothing is trained twice."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rhapsode.recipes import pretrain, scaling
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.options.scaling import ScalingOptions
from rhapsode.recipes.scaling_laws import running
from rhapsode.recipes.scaling_laws.ladder import plan, run_options
from rhapsode.recipes.training.setup import load_tokenizer, new_model
from transformers import AutoModelForCausalLM

E, A, B, ALPHA, BETA = 2.0, 400.0, 40.0, 0.5, 0.4
# Losses that follow the law are fitted to about 1e-5; the larger model's prediction inherits that.
FIT_TOLERANCE = 1e-3


@pytest.fixture
def options(corpus, tokenizer_directory, tmp_path):
    """Options of a ladder of nine runs of a step or two each, with changes."""

    def make(**changes) -> ScalingOptions:
        return ScalingOptions(
            **{
                "sizes": ["16x1", "32x1", "48x1"],
                "tokens": [128, 256, 512],
                "noise_seeds": 1,
                "dataset": [str(corpus)],
                "data_cache": str(tmp_path / "cache"),
                "tokenizer": str(tokenizer_directory),
                "max_length": 32,
                "per_device_train_batch_size": 4,
                "bootstrap_samples": 20,
                "output_dir": str(tmp_path / "ladder"),
                "num_proc": 1,
                "bf16": False,
                **changes,
            }
        )

    return make


@pytest.fixture
def lawful(monkeypatch):
    """In place of training, runs whose losses follow the Chinchilla form; returns the list of those that ran."""
    trained = []

    def run(given):
        directory = Path(given.output_dir)
        shape = dict(item.split("=") for item in given.config_overrides)
        tokens = given.max_steps * given.per_device_train_batch_size * given.max_length
        N = new_model(given, load_tokenizer(given.tokenizer)).num_parameters()
        loss = E + A / N**ALPHA + B / tokens**BETA
        directory.mkdir(parents=True, exist_ok=True)
        results = {"eval_loss": loss, "eval_bits_per_byte": loss / 2, "seconds": 1.0}
        (directory / "results.json").write_text(json.dumps(results))
        trained.append((f"{shape['hidden_size']}x{shape['num_hidden_layers']}", tokens, given.seed))

    monkeypatch.setattr(pretrain, "run", run)
    monkeypatch.setattr(scaling, "write_report", lambda *_: None)  # slow; the miniature ladder has a real one
    return trained


def test_miniature_ladder(options, tmp_path, capsys):
    """Real runs from end to end: what the directory holds agrees, and the prediction is older than what it predicts."""
    begin = datetime.now(UTC).replace(microsecond=0)
    scaling.run(options(json=True))
    ladder = tmp_path / "ladder"
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((ladder / "results.json").read_text())
    for name in ("scaling.md", "scaling.png", "config_resolved.yaml"):
        assert (ladder / name).stat().st_size > 0, name
    assert len(printed["runs"]) == 9
    held_out = ladder / "runs" / f"{printed['held_out']['size']}-512-seed0"
    run = json.loads((held_out / "results.json").read_text())
    assert (run["eval_loss"], run["parameters"], run["tokens"]) == tuple(
        printed["held_out"][key] for key in ("loss", "parameters", "tokens")
    )
    assert AutoModelForCausalLM.from_pretrained(held_out).num_parameters() == run["parameters"]
    assert printed["parameter_ratio"] >= 4
    assert printed["non_embedding_ratio"] >= 4
    prediction = json.loads((ladder / "prediction.json").read_text())
    assert printed["error"] == pytest.approx(prediction["loss"] / run["eval_loss"] - 1)
    assert begin <= datetime.fromisoformat(prediction["written"]) <= datetime.now(UTC)
    first_written = min(path.stat().st_mtime for path in held_out.rglob("*") if path.is_file())
    assert (ladder / "prediction.json").stat().st_mtime <= first_written


def test_lawful_losses_are_predicted(options, lawful, capsys):
    """Every size on every budget is trained once, and a law without noise is extrapolated exactly."""
    scaling.run(options(noise_seeds=3, json=True))
    results = json.loads(capsys.readouterr().out)
    sizes, budgets = ("16x1", "32x1", "48x1"), (128, 256, 512)
    expected = {(size, tokens, 0) for size in sizes for tokens in budgets} | {("32x1", 256, 1), ("32x1", 256, 2)}
    assert sorted(lawful[:-1]) == sorted(expected)
    assert lawful[-1] == (results["held_out"]["size"], 512, 0)
    assert abs(results["error"]) < FIT_TOLERANCE
    assert results["prediction"]["law"] == "chinchilla"  # the law that made the losses, of two
    errors = results["prediction"]["errors_on_largest_of_ladder"]
    assert errors["chinchilla"] < FIT_TOLERANCE < errors["kaplan"]
    assert results["noise_between_seeds"] == pytest.approx(0, abs=1e-12)
    coefficients = next(f for f in results["fits"] if (f["law"], f["N"]) == ("chinchilla", "all"))["coefficients"]
    assert coefficients["E"]["value"] == pytest.approx(E, rel=0.02)
    assert coefficients["alpha"]["value"] == pytest.approx(ALPHA, rel=0.02)


def test_resume_repeats_nothing(options, lawful, monkeypatch, tmp_path, capsys):
    """A ladder that died in its sixth run goes on with the others; started again when finished, it trains nothing."""
    train = pretrain.run

    def dies(given):
        if len(lawful) == 5:
            raise RuntimeError("the machine went away")
        train(given)

    monkeypatch.setattr(pretrain, "run", dies)
    with pytest.raises(RuntimeError, match="went away"):
        scaling.run(options())
    before = list(lawful)
    lawful.clear()
    monkeypatch.setattr(pretrain, "run", train)
    scaling.run(options(resume=True))
    assert not set(before) & set(lawful)
    assert len(before) + len(lawful) == 10
    prediction, lawful[:] = (tmp_path / "ladder" / "prediction.json").read_text(), []
    scaling.run(options(resume=True))
    assert lawful == []
    assert (tmp_path / "ladder" / "prediction.json").read_text() == prediction
    shutil.rmtree(tmp_path / "ladder" / "runs" / "32x1-256-seed0")
    scaling.run(options(resume=True))
    assert lawful == [("32x1", 256, 0)]


def test_a_ladder_is_not_mixed_or_overwritten(options, lawful, tmp_path):
    scaling.run(options())
    with pytest.raises(UserError, match="--resume goes on with it"):
        scaling.run(options())
    with pytest.raises(UserError, match=r"learning_rate=0\.5, but the run"):
        scaling.run(options(resume=True, learning_rate=0.5))
    lawful.clear()
    scaling.run(options(overwrite_output_dir=True))
    assert len(lawful) == 10


def test_other_peoples_directories_are_safe(options, tmp_path):
    (tmp_path / "ladder").mkdir()
    (tmp_path / "ladder" / "thesis.tex").write_text("years of work")
    for flags in ({"overwrite_output_dir": True}, {"resume": True}):
        with pytest.raises(UserError, match="not a scaling run's"):
            scaling.run(options(**flags))
    assert (tmp_path / "ladder" / "thesis.tex").read_text() == "years of work"


def test_max_minutes_shortens_all_budgets_alike(options, lawful, monkeypatch, tmp_path):
    monkeypatch.setattr(scaling, "estimated_seconds", lambda *_: 120.0)
    scaling.run(options(tokens=[1280, 2560, 5120], max_minutes=1.0))
    assert {tokens for _, tokens, _ in lawful} == {640, 1280, 2560}
    lawful.clear()
    monkeypatch.setattr(scaling, "estimated_seconds", lambda *_: 1e6)  # the machine is busier now
    scaling.run(options(tokens=[1280, 2560, 5120], max_minutes=1.0, resume=True))
    assert lawful == []


def test_estimated_seconds(options, tokenizer_directory):
    """Twice the budget takes twice the time, the held-out model is not divided among processes."""
    tokenizer = load_tokenizer(str(tokenizer_directory))
    ladder = plan(options(tokens=[1280, 2560, 5120]), tokenizer)
    one, two = (running.estimated_seconds(options(), ladder, tokenizer, count) for count in (1, 2))
    assert 0 < two < 2 * one  # a noisy clock: only the order of magnitude is certain
    assert one < 60


def test_plan(options, tokenizer_directory, tmp_path):
    """All runs have the same options but for size, length, seed, directory; the larger model is given or found."""
    tokenizer = load_tokenizer(str(tokenizer_directory))
    ladder = plan(options(noise_seeds=2), tokenizer)
    assert [r.seed for r in ladder.repeated] == [0, 1]
    different = {"config_overrides", "max_steps", "seed", "output_dir", "eval_steps", "save_steps", "logging_steps"}
    runs = [vars(run_options(options(), r, "t", tmp_path / r.name)) for r in [*ladder.fitted, ladder.held_out]]
    shared = [{key: value for key, value in run.items() if key not in different} for run in runs]
    assert all(run == shared[0] for run in shared)
    largest = max(ladder.fitted, key=lambda r: r.parameters)
    assert largest.parameters == largest.non_embedding + 48 * len(tokenizer)
    wider = plan(options(held_out_ratio=8.0), tokenizer).held_out
    assert wider.parameters >= 8 * largest.parameters > ladder.held_out.parameters
    assert plan(options(held_out="128x3", held_out_tokens=1024), tokenizer).held_out.name == "128x3-1024-seed0"


BAD = {
    "size": ({"sizes": ["16x1", "32", "48x1"]}, "size '32' is not of the form WIDTHxLAYERS"),
    "width": ({"sizes": ["16x1", "33x1", "48x1"]}, "a multiple of 8.*try 32"),
    "too few sizes": ({"sizes": ["16x1", "32x1"]}, "2 sizes and 3 token budgets are too few"),
    "too few budgets": ({"tokens": [256, 512]}, "3 sizes and 2 token budgets are too few"),
    "larger model": ({"held_out": "64x1"}, "--held_out 64x1 has .* --held_out_ratio 4 asks for that many times 48x1"),
    "override": ({"config_overrides": ["num_layers=3"]}, "num_layers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_ladders(case, options, lawful, tmp_path):
    """One clear line before anything is trained, and nothing left behind."""
    changes, expected = BAD[case]
    with pytest.raises(UserError, match=expected):
        scaling.run(options(**changes))
    assert lawful == []
    assert not (tmp_path / "ladder").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tokens": [100]}, "less than one step"),
        ({"noise_seeds": 0}, "--noise_seeds 0 must be above 0"),
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"bootstrap_samples": 3}, "use 20 or more"),
        ({"max_length": 1}, "use 2 or more"),
    ],
)
def test_bad_options(options, changes, expected):
    with pytest.raises(UserError, match=expected):
        options(**changes)


@pytest.mark.slow
def test_several_runs_at_a_time_change_nothing(options, tmp_path, capsys):
    results = []
    for count in (1, 2):
        scaling.run(options(json=True, num_proc=count, output_dir=str(tmp_path / str(count))))
        results.append(json.loads(capsys.readouterr().out))
    losses = [{(r["size"], r["tokens"]): r["loss"] for r in result["runs"]} for result in results]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)  # a sum over two threads is in another order than over one
