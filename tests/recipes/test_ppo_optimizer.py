"""One optimizer, two rates: that of the value model is its own, from the first step on and after a resumption."""

import pytest
import torch
from ppo_worker import changed, trainer, weights
from transformers import AutoTokenizer

FLOAT = 1e-5  # of a change: float32 weights after one step


@pytest.fixture(scope="module")
def tokenizer(tokenizer_directory):
    return AutoTokenizer.from_pretrained(tokenizer_directory)


def move(run) -> dict[str, torch.Tensor]:
    before = weights(run)
    run.train()
    return {name: after - before[name] for name, after in weights(run).items()}


@pytest.mark.parametrize("kind", ["policy", "head"])
def test_a_step_of_the_value_model_is_as_long_as_its_rate(tokenizer, tmp_path, kind):
    """Plain gradient descent: three times the rate is three times the step, and the policy's stays what it was."""
    settings = {"value_model": kind, "optim": "sgd", "learning_rate": 0.1, "max_steps": 1, "weight_decay": 0.1}
    moves = []
    for rate in (None, 0.3):
        run = trainer(tmp_path / str(rate), tokenizer, settings=settings | {"value_learning_rate": rate})
        moves.append(move(run))
    for name, same in moves[0].items():
        factor = 3 if name.startswith("value_model.") else 1
        assert torch.allclose(moves[1][name], factor * same, atol=FLOAT), name
    assert any(moves[0][name].abs().max() > 100 * FLOAT for name in moves[0] if name.startswith("value_model."))


def test_the_schedule_scales_both_rates_and_a_checkpoint_has_them(tokenizer, tmp_path):
    settings = {"value_learning_rate": 1e-2, "lr_scheduler_type": "linear", "max_steps": 8, "weight_decay": 0.1}
    whole = trainer(tmp_path, tokenizer, settings=settings | {"save_strategy": "steps", "save_steps": 5})
    whole.train()
    again = trainer(tmp_path / "again", tokenizer, settings=settings)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert changed(weights(again), weights(whole)) == []
    state = torch.load(tmp_path / "checkpoint-5" / "optimizer.pt", weights_only=True)
    rates = {group["initial_lr"]: group["lr"] for group in state["param_groups"]}
    assert rates == {3e-3: pytest.approx(3e-3 * 3 / 8), 1e-2: pytest.approx(1e-2 * 3 / 8)}
