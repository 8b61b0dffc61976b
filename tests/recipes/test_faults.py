"""SIGKILL at random moments, some of them in the middle of a checkpoint, and `--resume` until the run is through.

Oracle: the run that nobody disturbed, tensor by tensor and bit for bit. Real processes, of two over gloo.
`-s` shows how many kills there were, and how many of them left a half-written checkpoint behind.
"""

import random
import signal

import pytest
from faults import Campaign, KillAtOperation, Sources, differing, learned
from transformers import AutoModelForCausalLM

RUNS = [(command, count) for command in ("pretrain", "sft", "ppo") for count in (1, 2)]
KILLS = 8  # of each


@pytest.fixture
def sources(tmp_path, corpus, tokenizer_directory) -> Sources:
    return Sources(tmp_path, corpus, tokenizer_directory)


def be_killed(sources: Sources, command: str, count: int, kills: int) -> None:
    campaign = Campaign(sources, command, count)
    campaign.run(kills)
    print(
        f"\n{command}, {count} process(es): {campaign.kills} kills, {campaign.within_writes} in the middle of a write,"
    )
    print(f"{campaign.round} runs to the end, each with the weights of the one that was not disturbed")


def test_a_killed_sft_run_ends_where_it_would_have(sources, seed):
    be_killed(sources, "sft", 1, kills=1)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["pretrain", "sft", "ppo"])
def test_a_finished_run_that_is_resumed_and_killed_keeps_its_model(sources, seed, command):
    """It is evaluated and written once more; whatever is killed, the files are the old ones or the new, never half."""
    directory = sources.finish(command, "run")
    expected = learned(sources, command, directory)
    for number in random.sample(range(1, 25), KILLS // 2):
        training = sources.start(command, "run", "--resume", before=KillAtOperation(directory, number))
        assert set(training.wait()) <= {0, -signal.SIGKILL}, training.said()[-4000:]
        assert differing(directory, expected) == []
        AutoModelForCausalLM.from_pretrained(directory)
    assert differing(sources.finish(command, "run", "--resume"), expected) == []
    assert not list(directory.glob(".unfinished-model*"))


@pytest.mark.slow
@pytest.mark.parametrize(("command", "count"), RUNS, ids=lambda value: str(value))
def test_killed_again_and_again_it_ends_where_it_would_have(sources, seed, command, count):
    be_killed(sources, command, count, KILLS)
