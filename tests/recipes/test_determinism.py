"""The same seed gives the same weights, bit for bit, on the same machine; and SFT in two processes what one computes.

(Pretraining and PPO in two processes against one are in `test_processes.py` and `test_ppo_processes.py`.)
"""

import pytest
from faults import Sources, differing, weights
from rhapsode.recipes.cli import run_command
from rhapsode.recipes.reporting.metrics_file import read_metrics

SHORT = ("--max_steps=3", "--save_steps=100")
LOSS_TOLERANCE = 2e-5  # the same float32 terms summed in another order
# Of the rate times the steps, which is the most that a weight moves: AdamW divides by the gradient's size, and makes a
# rounding error in one near zero visible.
WEIGHT_TOLERANCE = 0.02
RATE, STEPS = 1e-3, 6


@pytest.fixture
def sources(tmp_path, corpus, tokenizer_directory) -> Sources:
    return Sources(tmp_path, corpus, tokenizer_directory)


@pytest.mark.parametrize(
    "command", ["pretrain", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sft", "ppo"))]
)
def test_the_same_seed_gives_the_same_weights(sources, command):
    """With dropout, shuffled rows and sampled answers; another seed gives other weights."""
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        assert run_command(command, sources.arguments(command, name, *SHORT, f"--seed={seed}")) == 0
    expected = weights(sources.root / "one")
    assert differing(sources.root / "again", expected) == []
    assert differing(sources.root / "other", expected) != []


@pytest.mark.slow
def test_sft_in_two_processes_computes_what_one_does(sources):
    """Answers have different lengths, and so the processes different numbers of targets."""
    same = (f"--max_steps={STEPS}", f"--learning_rate={RATE}", "--save_steps=100")
    same += ("--max_samples=8",)  # two whole batches: of an incomplete one transformers repeats rows to share it evenly
    one = sources.finish("sft", "one", *same, "--per_device_train_batch_size=4")
    two = sources.finish("sft", "two", *same, "--per_device_train_batch_size=2", count=2)
    losses = [[row["loss"] for row in read_metrics(run / "metrics.jsonl") if "loss" in row] for run in (one, two)]
    assert len(losses[0]) == STEPS and losses[1] == pytest.approx(losses[0], rel=LOSS_TOLERANCE)
    expected, found = weights(one), weights(two)
    worst = max((found[key] - expected[key]).abs().max().item() for key in expected)
    assert found.keys() == expected.keys() and worst < WEIGHT_TOLERANCE * RATE * STEPS
