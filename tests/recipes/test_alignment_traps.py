"""What trl makes of the rows, for every command that trains on pairs or single answers: traps that others fell into.

`test_sft.py` has the same for demonstrations, and that a model which learned them stops by itself.
"""

from functools import partial
from pathlib import Path

import pytest
from rhapsode.recipes import dpo, kto
from rhapsode.recipes.alignment.datasets import preference_dataset
from rhapsode.recipes.alignment.models import open_policy, open_scorer
from rhapsode.recipes.alignment.training import Job, arguments, build, prepare
from rhapsode.recipes.options.alignment import AlignmentOptions
from rhapsode.recipes.options.dpo import DpoOptions
from rhapsode.recipes.options.kto import KtoOptions
from rhapsode.recipes.options.reward import RewardOptions
from rhapsode.tokenization import encode_conversation
from small_chats import assistant, pairs, save_model, user, write_splits
from trl import DPOTrainer, KTOTrainer, RewardConfig, RewardTrainer

LENGTH = 64
LONG = "because of this and that, " * 20
COMMANDS = {
    "dpo": (DpoOptions, open_policy, dpo.read, DPOTrainer, dpo.settings),
    "kto": (KtoOptions, open_policy, kto.read, KTOTrainer, kto.settings),
    "reward": (RewardOptions, open_scorer, preference_dataset, RewardTrainer, lambda job: (RewardConfig, {})),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer_directory) -> str:
    return save_model(tmp_path_factory.mktemp("model"), tokenizer_directory)


def options(kind: type, model: str, dataset: str, directory: Path) -> AlignmentOptions:
    return kind(model=model, dataset=dataset, output_dir=str(directory), bf16=False, max_steps=1, max_length=LENGTH)


def sequences(trainer, job: Job) -> set[tuple[int, ...]]:
    """What the model is to read, without padding, of all rows."""
    found = set()
    for batch in trainer.get_eval_dataloader():
        assert batch["input_ids"][batch["attention_mask"] == 0].eq(job.tokenizer.pad_token_id).all()
        found |= {
            tuple(ids[mask.bool()].tolist())
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        }
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_one_bos_the_end_of_the_turn_and_nothing_that_is_cut(model, tmp_path, command):
    """Also with answers that are too long: their rows are left out and counted, whichever of the two it is."""
    long = {"prompt": [user("Why?")], "chosen": [assistant("So.")], "rejected": [assistant(LONG)]}
    data = write_splits(
        tmp_path / "rows", [*pairs(), long, long | {"chosen": long["rejected"], "rejected": long["chosen"]}]
    )
    kind, open, read, trainer_class, settle = COMMANDS[command]
    job = prepare(command, options(kind, model, data, tmp_path / "out"), open, read)
    config_class, own = settle(job)
    trainer = build(job, trainer_class, arguments(job, config_class, 1e-5, **own))
    encode = partial(encode_conversation, job.tokenizer)
    expected = {
        tuple(encode(row["prompt"] + row[key])["input_ids"]) for row in pairs() for key in ("chosen", "rejected")
    }
    short = tuple(encode([*long["prompt"], *long["chosen"]])["input_ids"])
    assert job.left_out["held_out"] == 2
    # An answer alone fits, where the other one of its pair does not.
    assert sequences(trainer, job) - {short} == expected
    for ids in expected:
        assert ids.count(job.tokenizer.bos_token_id) == 1 and ids[-1] == job.tokenizer.eos_token_id
        assert job.tokenizer.pad_token_id not in ids and len(ids) <= LENGTH
