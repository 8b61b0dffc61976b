"""PPO in two processes, over gloo. Oracles: one process with the whole batch, and a run that nobody stopped."""

import json

import pytest
import torch
from ppo_worker import run_processes
from rhapsode.recipes.trainers.values import VALUE_FILE
from safetensors.torch import load_file

LOSS_TOLERANCE = 1e-4  # the same float32 terms summed in another order, and whitened
# AdamW divides by the gradient's size, and makes a rounding error in one near zero visible: of rate times steps.
WEIGHT_TOLERANCE = 0.02
RATE, STEPS = 3e-3, 4
# Completions without chance, so that both ways have the same; an update is a whole rollout, whatever its order.
SAME = {"learning_rate": RATE, "max_steps": STEPS, "generation_kwargs": {"do_sample": False}, "steps_per_generation": 1}


def rows(directory) -> list[dict]:
    return [row for row in json.loads((directory / "state-0.json").read_text())["log_history"] if "loss" in row]


def test_two_processes_compute_what_one_does(tokenizer_directory, tmp_path):
    run_processes(1, tmp_path / "one", tokenizer_directory, SAME | {"per_device_train_batch_size": 8})
    run_processes(2, tmp_path / "two", tokenizer_directory, SAME | {"per_device_train_batch_size": 4})
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == len(two) == STEPS
    for key in ("reward", "loss/policy", "loss/value", "entropy", "objective/kl", "completions/mean_length"):
        found, expected = ([row[key] for row in run if key in row] for run in (two, one))
        assert found == pytest.approx(expected, rel=LOSS_TOLERANCE, abs=LOSS_TOLERANCE), key
    assert any(row.get("objective/kl") for row in one)  # or equal figures would say nothing
    for name in ("model.safetensors", VALUE_FILE):
        found, expected = load_file(tmp_path / "two" / name), load_file(tmp_path / "one" / name)
        assert found.keys() == expected.keys()
        worst = max((found[key] - expected[key]).abs().max().item() for key in expected)
        assert 0 < worst < WEIGHT_TOLERANCE * RATE * STEPS, name


@pytest.mark.slow
def test_two_processes_go_on_from_a_checkpoint_bit_for_bit(tokenizer_directory, tmp_path):
    """Sampled completions, in the middle of a rollout and of the second epoch over the data."""
    settings = {"max_steps": 7, "save_strategy": "steps", "save_steps": 5, "kl_target": 0.1, "kl_horizon": 50}
    run_processes(2, tmp_path / "whole", tokenizer_directory, settings)
    checkpoint = str(tmp_path / "whole" / "checkpoint-5")
    run_processes(2, tmp_path / "again", tokenizer_directory, settings | {"resume": checkpoint})
    for name in ("model.safetensors", VALUE_FILE):
        found, expected = load_file(tmp_path / "again" / name), load_file(tmp_path / "whole" / name)
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
    states = [torch.load(f"{checkpoint}/ppo_state_{rank}.pt")["buffer"]["rollout"]["input_ids"] for rank in (0, 1)]
    assert states[0].shape != states[1].shape or not torch.equal(*states)  # each process has completions of its own
