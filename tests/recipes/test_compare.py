"""`rhapsode compare`: what it asks of `rhapsode pretrain`, and the one table that it makes of the answers."""

import json

import pytest
from rhapsode.recipes import compare
from rhapsode.recipes.baselines.build import BASELINES
from rhapsode.recipes.options.base import UserError, parse, save_resolved
from rhapsode.recipes.options.compare import CompareOptions
from transformers import AutoConfig

SIZES = {"ngram": {"order": 2, "num_grams": [3, 4]}, "lstm": {"hidden_size": 8}}


@pytest.fixture
def finished(tmp_path):
    """A comparison in which every run has ended, with made-up results."""
    options = CompareOptions(
        architectures=list(SIZES), tokenizer="given", output_dir=str(tmp_path / "compare"), resume=True
    )
    for kind, bits in (("equal-data", 1.25), ("equal-time", 1.5)):
        for name, sizes in SIZES.items():
            model = BASELINES[name](BASELINES[name].config_class(vocab_size=10, **sizes))
            directory = tmp_path / "compare" / kind / name
            model.save_pretrained(directory)
            results = {"eval_bits_per_byte": bits + len(name) / 100, "tokens": 12345, "seconds": 7.5}
            (directory / "results.json").write_text(json.dumps(results))
    save_resolved(options, tmp_path / "compare" / compare.RESOLVED, "compare")
    return options


def test_one_table(finished, tmp_path, capsys):
    compare.run(finished)
    root = tmp_path / "compare"
    rows = json.loads((root / "results.json").read_text())["rows"]
    ngram, lstm = rows
    assert [row["architecture"] for row in rows] == ["ngram", "lstm"]
    assert ngram["parameters"] == 7
    assert lstm["parameters"] == 10 * 8 + 10 + 2 * (2 * 4 * 8 * 8 + 2 * 4 * 8)
    assert ngram["data_bits_per_byte"] == ngram["time_bits_per_byte"] == 1.3
    assert (lstm["data_bits_per_byte"], lstm["time_bits_per_byte"]) == (1.29, 1.54)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert " ".join(lines[3].split()) == "| lstm | 1,242 | 1.290 | 12,345 | 7.500 | 1.540 | 12,345 | 7.500 |"
    assert "\n".join(lines) in (root / "compare.md").read_text()
    assert (root / "compare.png").read_bytes().startswith(b"\x89PNG")
    finished.json = True
    compare.run(finished)
    assert json.loads(capsys.readouterr().out)["rows"] == rows


def test_all_are_trained_alike(tmp_path):
    """Only the design, its learning rate and what is changed for it differ."""
    flags = ["--learning_rates", "lstm=0.004", "--config_overrides", "lstm.hidden_size=32", "ngram.order=3"]
    options = parse(CompareOptions, [*flags, "--max_length", "64"], "rhapsode compare", CompareOptions.__doc__)
    asked = {name: vars(compare.pretrain_options(options, name, "t", tmp_path)) for name in options.architectures}
    assert {o["max_length"] for o in asked.values()} == {64}
    differing = {key for o in asked.values() for key in o if o[key] != asked["transformer"][key]}
    assert differing == {"architecture", "config_overrides", "learning_rate"}
    assert asked["lstm"]["config_overrides"] == ["hidden_size=32"]
    assert asked["ngram"]["config_overrides"] == ["order=3"]
    assert (asked["lstm"]["learning_rate"], asked["rnn"]["learning_rate"]) == (0.004, compare.LEARNING_RATES["rnn"])
    limited = compare.pretrain_options(options, "lstm", "t", tmp_path, max_seconds=3.0, num_train_epochs=1000.0)
    assert (limited.max_seconds, limited.num_train_epochs) == (3.0, 1000.0)


@pytest.mark.slow
def test_every_architecture_end_to_end(corpus, tokenizer_directory, tmp_path, capsys):
    """The real loop: five architectures, each at equal data and for two seconds."""
    flags = ["--dataset", str(corpus), "--tokenizer", str(tokenizer_directory), "--preset", "rhapsode-10m-tiny"]
    flags += ["--config_overrides", "lstm.hidden_size=32", "rnn.hidden_size=32", "feedforward.hidden_size=32"]
    flags += ["--output_dir", str(tmp_path / "run"), "--max_seconds", "2", "--max_length", "64", "--json"]
    compare.run(parse(CompareOptions, flags, "rhapsode compare", CompareOptions.__doc__))
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["architecture"] for row in rows] == ["ngram", "feedforward", "rnn", "lstm", "transformer"]
    for row in rows:
        name = row["architecture"]
        expected = "rhapsode" if name == "transformer" else f"rhapsode_{name}"
        assert AutoConfig.from_pretrained(tmp_path / "run" / "equal-data" / name).model_type == expected
        assert 0.5 < row["data_bits_per_byte"] < 8
        if name != "ngram":
            assert row["time_seconds"] == pytest.approx(2, abs=1)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--architectures", "lstn"], "did you mean 'lstm'"),
        (["--architectures", "lstm", "lstm"], "name each once"),
        (["--config_overrides", "lstm=3"], "architecture.field=value"),
        (["--config_overrides", "gru.order=3"], "use ngram, feedforward"),
        (["--learning_rates", "lstm=fast"], "not a number"),
        (["--max_seconds", "0"], "above 0"),
        (["--max_length", "1"], "2 or more"),
    ],
)
def test_bad_options(flags, expected):
    with pytest.raises(UserError, match=expected):
        parse(CompareOptions, flags, "rhapsode compare", CompareOptions.__doc__)


def test_what_is_in_the_way_stays(finished, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a compare run's"):
        compare.run(CompareOptions(output_dir=str(tmp_path / "thesis")))
    finished.resume = False
    with pytest.raises(UserError, match="--resume goes on with it"):
        compare.run(finished)
    finished.resume, finished.seed = True, 5
    with pytest.raises(UserError, match="seed=5, but the run"):
        compare.run(finished)
