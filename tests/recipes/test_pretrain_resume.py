"""Stopping the training loop and going on: the run that comes out is the one that nobody disturbed."""

import signal

import pytest
import torch
from rhapsode.recipes import pretrain
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.reporting.metrics_file import read_metrics
from safetensors.torch import load_file


def weights(directory):
    return load_file(directory / "model.safetensors")


def assert_equal_weights(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_resume_is_exact(options, corpus, tmp_path, monkeypatch, optim):
    """A run that dies after step 10, in its second epoch and with dropout, ends bit for bit where it would have."""
    changes = {
        "optim": optim,
        "config_overrides": ["residual_dropout=0.1"],
        "dataset": [str(corpus / "bisect.py")],
        "per_device_train_batch_size": 8,
        "seed": 3,
    }
    pretrain.run(options(**changes, output_dir=str(tmp_path / "whole")))
    assert read_metrics(tmp_path / "whole" / "metrics.jsonl")[-1]["epoch"] > 1

    step = pretrain.train_step

    def dies(current, *rest):
        if current.progress.step == 10:
            raise RuntimeError("the machine went away")
        return step(current, *rest)

    monkeypatch.setattr(pretrain, "train_step", dies)
    with pytest.raises(RuntimeError, match="went away"):
        pretrain.run(options(**changes))
    monkeypatch.undo()
    pretrain.run(options(**changes, resume=True))
    assert_equal_weights(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    losses = [
        [r["loss"] for r in read_metrics(tmp_path / d / "metrics.jsonl") if "loss" in r] for d in ("whole", "run")
    ]
    assert losses[0] == losses[1]


def test_signal_saves_and_resumes(options, tmp_path, monkeypatch, capsys):
    """Ctrl-C in step 6 ends the run after that step, with a checkpoint and one line."""
    pretrain.run(options(output_dir=str(tmp_path / "whole")))
    step = pretrain.train_step

    def interrupted(current, *rest):
        if current.progress.step == 5:
            signal.raise_signal(signal.SIGINT)
        return step(current, *rest)

    monkeypatch.setattr(pretrain, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain.run(options())
    assert "saved step 6 of 12" in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoints" / "step-00000006").is_dir()
    monkeypatch.undo()
    (tmp_path / "run").rename(tmp_path / "moved")  # a run that was moved goes on
    pretrain.run(options(resume=True, output_dir=str(tmp_path / "moved")))
    assert_equal_weights(weights(tmp_path / "whole"), weights(tmp_path / "moved"))


def test_another_division_of_the_batch_resumes_and_another_batch_does_not(options, tmp_path):
    """4 x 2 accumulated rows go on as 8 x 1; 4 x 1 are other steps."""
    pretrain.run(options(gradient_accumulation_steps=2, max_steps=8, output_dir=str(tmp_path / "whole")))
    first = options(gradient_accumulation_steps=2, max_steps=8)
    stop_after(4, first)
    with pytest.raises(UserError, match=r"resume with 4 sequences a step .* has 8"):
        pretrain.run(options(max_steps=8, resume=True))
    pretrain.run(options(per_device_train_batch_size=8, max_steps=8, resume=True))
    runs = [
        [r["loss"] for r in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in r] for name in ("whole", "run")
    ]
    assert runs[1] == pytest.approx(runs[0], rel=1e-4)


def stop_after(step: int, options) -> None:
    with pytest.MonkeyPatch.context() as patch:
        original = pretrain.train_step

        def interrupted(current, *rest):
            if current.progress.step == step - 1:
                signal.raise_signal(signal.SIGTERM)
            return original(current, *rest)

        patch.setattr(pretrain, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain.run(options)


def test_a_stream_resumes_exactly(options, tmp_path):
    """Stopped between two checkpoints and two lines of the log."""
    changes = {"streaming": True, "logging_steps": 3, "save_steps": 100, "config_overrides": ["residual_dropout=0.1"]}
    pretrain.run(options(**changes, output_dir=str(tmp_path / "whole")))
    stop_after(5, options(**changes))
    pretrain.run(options(**changes, resume=True))
    assert_equal_weights(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    lines = [
        [(r["step"], r["loss"]) for r in read_metrics(tmp_path / d / "metrics.jsonl") if "loss" in r]
        for d in ("whole", "run")
    ]
    assert lines[0] == lines[1]
    assert [step for step, _ in lines[0]] == [3, 6, 9, 12]
