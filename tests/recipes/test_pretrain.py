"""The training loop, end to end on a small model: what it writes, and that stopping and batching change nothing."""

import json
import math

import pytest
import torch
from rhapsode.recipes import pretrain
from rhapsode.recipes.cli import run_command
from rhapsode.recipes.data.tokens import IGNORED
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.reporting.metrics_file import read_metrics
from rhapsode.recipes.training.checkpoint import read_part
from rhapsode.recipes.training.state import collect
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

# Sums of the same float32 terms in another order; a wrong count of targets changes the update by about a tenth.
ACCUMULATION_TOLERANCE = 1e-4
SHIFT = 1e-3


def test_run_directory(options, tmp_path, corpus, capsys):
    """Everything that the README promises is there, opens and agrees."""
    pretrain.run(options(seed=1))
    run = tmp_path / "run"
    for name in ("config_resolved.yaml", "report.md", "curves.png", "results.json", "modeling_rhapsode.py"):
        assert (run / name).stat().st_size > 0, name
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step-00000008", "step-00000012"]
    rows = read_metrics(run / "metrics.jsonl")
    trained = [row for row in rows if "loss" in row]
    assert [row["step"] for row in trained] == list(range(1, 13))
    assert abs(trained[0]["loss"] - math.log(512)) < 0.3, "an untrained model knows nothing"
    assert trained[-1]["loss"] < trained[0]["loss"] - 0.1
    assert trained[-1]["tokens"] == 12 * 4 * 64
    assert [row["step"] for row in rows if "eval_loss" in row] == [6]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    for ids in (model.config, model.generation_config):
        assert ids.eos_token_id == tokenizer.eos_token_id
        assert ids.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.config.use_cache
    results = json.loads((run / "results.json").read_text())
    capsys.readouterr()
    command = ["--model", str(run), "--dataset", str(corpus), "--json"]
    assert run_command("evaluate", command) == 0
    assert json.loads(capsys.readouterr().out)["bits_per_byte"] == pytest.approx(
        results["eval_bits_per_byte"], rel=1e-5
    )


def test_accumulation_equals_the_large_batch(options, tmp_path, seed):
    """1 x 8 and 4 x 2 rows give the same updates, though the micro-batches have different numbers of targets.

    With plain SGD: AdamW divides by the size of the gradient, and makes a rounding error in one near zero visible.
    """
    trained = {}
    for name, size, count in (("large", 8, 1), ("small", 2, 4)):
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": count}
        current = pretrain.prepare(options(**sizes, seed=seed, output_dir=str(tmp_path / name)))
        start = {key: p.detach().clone() for key, p in current.model.named_parameters()}
        current.optimizers = [torch.optim.SGD(current.model.parameters(), lr=0.1)]
        current.optimizers[0].param_groups[0]["peak_lr"] = 0.1
        for current.progress.step in range(3):
            pretrain.train_step(current)
        trained[name] = dict(current.model.named_parameters())
    difference = max((trained["large"][key] - trained["small"][key]).abs().max().item() for key in start)
    moved = max((trained["large"][key] - start[key]).abs().max().item() for key in start)
    assert moved > SHIFT, "the comparison is empty if nothing was learnt"
    assert difference < ACCUMULATION_TOLERANCE * moved


def test_loss_is_per_target_token(options, seed):
    """The loss of a step is the plain mean over its targets, joins between documents left out."""
    current = pretrain.prepare(options(seed=seed, gradient_accumulation_steps=2))
    batches = pretrain.step_batches(current)
    nats, targets = 0.0, 0
    for batch in batches:
        with torch.no_grad():
            logits = current.model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits
        chosen = logits.log_softmax(-1)[:, :-1].gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
        counted = batch["labels"][:, 1:] != IGNORED
        nats, targets = nats - chosen[counted].sum().item(), targets + counted.sum().item()
    loss, _ = pretrain.train_step(current)
    assert loss == pytest.approx(nats / targets, rel=1e-5)


def test_max_seconds_ends_with_a_decayed_rate(options, tmp_path):
    pretrain.run(options(max_steps=100_000, max_seconds=2.0, lr_scheduler_type="linear", save_steps=100_000))
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    assert rows[-1]["step"] < 100_000
    assert 2.0 <= rows[-1]["seconds"] < 4.0
    assert rows[-1]["learning_rate"] < 0.2 * max(row["learning_rate"] for row in rows)


def test_the_last_evaluation_takes_all_or_as_much_as_it_may(options, tmp_path):
    found = {}
    for limit in (None, 300):
        pretrain.run(options(max_steps=1, final_eval_tokens=limit, output_dir=str(tmp_path / str(limit))))
        found[limit] = json.loads((tmp_path / str(limit) / "results.json").read_text())
    whole, part = found[None], found[300]
    assert 300 <= part["eval_tokens"] < 300 + 64 < whole["eval_tokens"]  # a window more at most
    bytes_per_token = whole["eval_bytes"] / whole["eval_tokens"]
    assert part["eval_bytes"] / part["eval_tokens"] == pytest.approx(bytes_per_token, rel=0.5)


def test_going_on_from_a_model(options, tmp_path):
    """`--model` starts where the other run ended, not from nothing."""
    pretrain.run(options(max_steps=30, learning_rate=5e-3))
    last = [r for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in r][-1]["loss"]
    again = {"model": str(tmp_path / "run"), "tokenizer": None, "output_dir": str(tmp_path / "again"), "max_steps": 2}
    pretrain.run(options(**again))
    assert read_metrics(tmp_path / "again" / "metrics.jsonl")[0]["loss"] < last + 0.5


def test_a_skipped_step_moves_nothing_but_the_data(options, monkeypatch):
    """A loss that is not finite: weights, optimizer and average stay to the bit, and the next step has other rows."""
    current = pretrain.prepare(options(ema_decay=0.9, optim="muon"))
    pretrain.train_step(current)
    current.progress.step = 1
    before = {
        name: t.clone()
        for part in collect(current.model, current.optimizers, current.average)[0].values()
        for name, t in part.items()
    }
    loss = current.loss.forward
    monkeypatch.setattr(current.loss, "forward", lambda *batch: loss(*batch) * float("nan"))
    _, figures = pretrain.train_step(current)
    assert figures["skipped_steps"] == 1
    after = {
        name: t
        for part in collect(current.model, current.optimizers, current.average)[0].values()
        for name, t in part.items()
    }
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in current.model.parameters())
    monkeypatch.undo()
    current.progress.step = 2
    _, figures = pretrain.train_step(current)
    assert figures["skipped_steps"] == 1
    assert not all(torch.equal(before[n], t) for n, t in collect(current.model, [], None)[0]["model"].items())


def test_too_many_skipped_steps_end_the_run(options, tmp_path, monkeypatch):
    step = pretrain.train_step

    def diverges(current, *rest):
        monkeypatch.setattr(current.loss, "forward", lambda *batch: torch.tensor(float("inf"), requires_grad=True))
        return step(current, *rest)

    monkeypatch.setattr(pretrain, "train_step", diverges)
    with pytest.raises(UserError, match=r"step 2: the loss is inf; 3 steps were skipped"):
        pretrain.run(options(max_skipped_steps=2))


def test_checkpoints_that_are_kept(options, tmp_path):
    """The newest, the best by a metric that is measured for it, and milestones."""
    pretrain.run(options(save_total_limit=1, metric_for_best_model="eval_loss", milestone_steps=4, save_steps=2))
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    losses = {row["step"]: row["eval_loss"] for row in rows if "eval_loss" in row}
    assert list(losses) == [2, 4, 6, 8, 10, 12]
    best = min(losses, key=lambda step: (losses[step], -step))
    kept = sorted({4, 8, 12, best})
    found = tmp_path / "run" / "checkpoints"
    assert sorted(p.name for p in found.iterdir()) == [f"step-{step:08d}" for step in kept]


def test_a_checkpoint_every_so_many_minutes(options, tmp_path):
    pretrain.run(options(save_steps=1000, save_minutes=1e-9, save_total_limit=100))
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 12


def test_the_average_is_what_is_saved(options, tmp_path):
    """By a plain loop over the weights of every step, which a run without the average has too."""
    pretrain.run(options(save_steps=1, save_total_limit=100))
    pretrain.run(options(ema_decay=0.5, output_dir=str(tmp_path / "averaged")))
    steps = [dict(read_part(p, "model")) for p in sorted((tmp_path / "run" / "checkpoints").iterdir())]
    start = {
        name: p.detach().clone()
        for name, p in pretrain.prepare(options(output_dir=str(tmp_path / "new"))).model.named_parameters()
    }
    average = {name: p.double() for name, p in start.items()}
    for t, step in enumerate(steps):
        decay = min(0.5, (1 + t) / (10 + t))
        average = {name: decay * average[name] + (1 - decay) * step[name] for name in average}
    saved = load_file(tmp_path / "averaged" / "model.safetensors")
    for name, expected in average.items():
        assert torch.allclose(saved[name].double(), expected, atol=1e-6), name


def test_frozen_parts_stay(options, tmp_path):
    current = pretrain.prepare(options(freeze=["model.layers.0.*", "*.embed_tokens.*"], optim="muon"))
    start = {name: p.detach().clone() for name, p in current.model.named_parameters()}
    pretrain.train_step(current)
    moved = {name for name, p in current.model.named_parameters() if not torch.equal(p, start[name])}
    frozen = {name for name in start if name.startswith("model.layers.0.") or "embed_tokens" in name}
    assert moved == start.keys() - frozen


def test_the_batch_grows(options, tmp_path):
    pretrain.run(options(gradient_accumulation_steps=4, batch_warmup_steps=6, per_device_train_batch_size=2))
    tokens = [
        row["tokens"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "tokens" in row and "loss" in row
    ]
    steps = [(b - a) // (2 * 64) for a, b in zip([0, *tokens], tokens, strict=False)]
    assert steps == [1, 1, 2, 2, 3, 3, 4, 4, 4, 4, 4, 4]


def test_an_ngram_model_is_fitted_by_the_same_command(options, tmp_path, corpus, capsys):
    pretrain.run(options(architecture="ngram", config_overrides=["order=3"]))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["eval_bits_per_byte"] < 8
    capsys.readouterr()
    assert (
        run_command(
            "evaluate",
            [
                "--model",
                str(tmp_path / "run"),
                "--dataset",
                str(corpus),
                "--max_length",
                "64",
                "--stride",
                "32",
                "--json",
            ],
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["bits_per_byte"] == pytest.approx(
        results["eval_bits_per_byte"], rel=1e-5
    )


@pytest.mark.parametrize("architecture", ["feedforward", "rnn", "lstm"])
def test_classics_train_in_the_same_loop(options, tmp_path, architecture):
    sizes = {
        "feedforward": ["hidden_size=32"],
        "rnn": ["hidden_size=32"],
        "lstm": ["hidden_size=32", "num_hidden_layers=1"],
    }
    pretrain.run(
        options(architecture=architecture, config_overrides=sizes[architecture], max_steps=20, learning_rate=5e-3)
    )
    losses = [row["loss"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    assert losses[-1] < losses[0] - 0.1
    AutoModelForCausalLM.from_pretrained(tmp_path / "run")


BAD = {
    "unknown preset": (["--preset", "rhapsode-10"], "did you mean 'rhapsode-10m'"),
    "unknown field": (["--config_overrides", "num_layers=3"], "num_layers"),
    "bad combination": (["--config_overrides", "num_key_value_heads=3"], "use 1, 2 or 4"),
    "wrong type": (["--config_overrides", "num_hidden_layers=two"], "num_hidden_layers"),
    "no assignment": (["--config_overrides", "seven"], "name=value"),
    "no tokenizer": (["--tokenizer", "/nowhere"], "/nowhere"),
    "no data": (["--dataset", "/nowhere.txt"], "/nowhere.txt: no such file"),
    "no model": (["--model", "/nowhere"], "/nowhere"),
    "batch": (["--per_device_train_batch_size", "0"], "must be above 0"),
    "length": (["--max_length", "1"], "2 or more"),
    "rows": (["--max_length", "1000000"], "fewer than one sequence"),
    "schedule": (["--lr_scheduler_type", "cosin"], "cosin"),
    "freeze": (["--freeze", "model.layer.*"], "fits no parameter; the nearest one is model."),
    "frozen": (["--freeze", "*"], "leaves nothing to train"),
    "weights": (["--dataset_weights", "1 2"], "--dataset_weights"),
    "tracker": (["--report_to", "tensorbord"], "did you mean tensorboard?"),
    "strategy": (["--accelerate_config", "fsdp2"], "without --num_processes"),
    "average": (["--ema_decay", "1"], "must be from 0 up to"),
    "share": (["--validation_share", "1"], "must be above 0 and below 1"),
    "algorithm": (["--tokenizer_algorithm", "chars"], "invalid choice: 'chars'"),
    "batch warm-up": (["--batch_warmup_steps", "10"], "cannot be smaller than one forward pass"),
    "precision": (["--pure_bf16", "--no-bf16"], "leave one out"),
    "stream": (["--streaming", "--streaming"], "say --max_steps"),
    "vocabulary": (["--config_overrides", "vocab_size=100"], "ids up to 511 and the model has vocab_size=100"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, corpus, tokenizer_directory, tmp_path, capsys):
    """Exit status 2, one line on stderr that names the thing, and nothing left behind."""
    flags, expected = BAD[case]
    given = {"--preset": "rhapsode-10m-tiny", "--dataset": str(corpus), "--tokenizer": str(tokenizer_directory)}
    given |= {"--output_dir": str(tmp_path / "run"), "--max_length": "64", flags[0]: flags[1]}
    words = [part for pair in given.items() for word in dict.fromkeys(pair) for part in word.split(" ")]
    assert run_command("pretrain", words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rhapsode pretrain:")]
    assert len(lines) == 1
    assert expected in lines[0]
    assert not (tmp_path / "run").exists()


def test_other_peoples_directories_are_safe(options, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    flags = ["--output_dir", str(tmp_path / "run"), "--overwrite_output_dir"]
    assert run_command("pretrain", flags) == 2
    assert "not a pretrain run's" in capsys.readouterr().err
    assert (tmp_path / "run" / "thesis.tex").read_text() == "years of work"


def test_a_run_is_not_overwritten_or_mixed(options, tmp_path):
    pretrain.run(options(max_steps=1))
    with pytest.raises(ValueError, match="resume goes on with it"):
        pretrain.run(options(max_steps=1))
    with pytest.raises(ValueError, match=r"learning_rate=0\.5"):
        pretrain.run(options(max_steps=1, resume=True, learning_rate=0.5))
