"""`WholeCheckpoints` in front of transformers' own Trainer, on a model of one matrix."""

import errno
import json
from pathlib import Path

import pytest
import torch
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.training import whole_checkpoints
from rhapsode.recipes.training.sealing import damage
from rhapsode.recipes.training.whole_checkpoints import with_whole_checkpoints
from transformers import Trainer, TrainingArguments

ROWS = [{"x": torch.full((3,), float(i)), "labels": torch.tensor([float(i)])} for i in range(8)]
STEPS = 4


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 1)

    def forward(self, x, labels):
        y = self.linear(x)
        return {"loss": (y - labels).square().mean(), "logits": y}


def trainer(directory: Path, **settings) -> Trainer:
    settings = {"max_steps": STEPS, "save_steps": 1, "save_strategy": "steps", "learning_rate": 0.1} | settings
    fixed = {"per_device_train_batch_size": 2, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    args = TrainingArguments(str(directory), lr_scheduler_type="constant", **fixed, **settings)
    return with_whole_checkpoints(Trainer)(Line(), args, train_dataset=ROWS, eval_dataset=ROWS)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_they_are_sealed_and_rotated(seed, tmp_path):
    trainer(tmp_path, save_total_limit=2).train()
    assert names(tmp_path) == ["checkpoint-3", "checkpoint-4"]
    for path in tmp_path.iterdir():
        assert damage(path) is None and (path / "identity.json").exists()


def test_the_best_one_is_kept_under_its_own_name(seed, tmp_path):
    """Its path is noted while it still has another one."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "save_total_limit": 2}
    run = trainer(tmp_path, eval_strategy="steps", eval_steps=1, greater_is_better=True, learning_rate=0.01, **best)
    with torch.no_grad():  # below every label, and it stays there for four such steps: the loss falls with each
        run.model.linear.weight.zero_()
        run.model.linear.bias.zero_()
    run.train()  # the highest loss is that of the first step, which rotation would take
    assert run.state.best_model_checkpoint == str(tmp_path / "checkpoint-1")
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-4"]
    for path in tmp_path.iterdir():
        state = json.loads((path / "trainer_state.json").read_text())
        assert state["best_model_checkpoint"] == str(tmp_path / "checkpoint-1") and damage(path) is None


def test_no_step_after_the_last(seed, tmp_path):
    """Eight rows are four steps; six steps end within the second epoch."""
    trainer(tmp_path / "six", max_steps=6).train()
    again = trainer(tmp_path / "six", max_steps=6)
    done = again.train(resume_from_checkpoint=again.newest_checkpoint())
    assert done.global_step == 6 and names(tmp_path / "six")[-1] == "checkpoint-6"


def test_another_identity_is_refused(seed, tmp_path):
    run = trainer(tmp_path)
    run.identity = {"rows": {"count": 8}}
    run.train()
    run.identity = {"rows": {"count": 7}}
    with pytest.raises(UserError, match=r"--resume with other rows than the run in .* \(count 7 in place of count 8\)"):
        run.newest_checkpoint()


@pytest.mark.parametrize("step", [1, 3])
def test_a_write_that_fails_leaves_the_ones_before(seed, tmp_path, monkeypatch, step):
    seal = whole_checkpoints.seal

    def failing(written, final):
        if final.name == f"checkpoint-{step}":
            raise OSError(errno.ENOSPC, "No space left on device")
        seal(written, final)

    monkeypatch.setattr(whole_checkpoints, "seal", failing)
    kept = f"{tmp_path}/checkpoint-2" if step > 1 else "none"
    with pytest.raises(
        UserError, match=f"checkpoint at step {step}: No space left .*newest whole checkpoint is {kept}"
    ):
        trainer(tmp_path, save_total_limit=1).train()
    assert names(tmp_path) == (["checkpoint-2"] if step > 1 else [])
