"""Proximal policy optimization against a reward model (Ouyang et al. 2022, arXiv:2203.02155, the third step).

    maximise  E[r(x, y) - beta KL(pi(. | x) || rho(. | x))]        y from the model pi, rho what it was at the beginning

by `rhapsode.trainers.PPOTrainer`, where the equations are. What this recipe adds is the prompts, the rewards by name,
text for PPO-ptx, and a second opinion: where the prompts have a reference answer, the judge scores what was sampled as
well, with weight 0. A reward that goes up while the judge goes down is over-optimised (Gao et al. 2022,
arXiv:2210.10760). `guides/ppo.md` says how to choose the coefficients and how to read the curves.
"""

import sys
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset
from transformers import TrainingArguments

from .alignment.datasets import prompt_dataset
from .alignment.judge import judge_reward
from .alignment.models import open_policy
from .alignment.outcome import align
from .alignment.reward_functions import check_columns, is_watched, open_reward_functions
from .alignment.training import ADAPTER
from .cli import run_command
from .data.corpus import read_documents
from .data.parallel import encode_all
from .options.base import UserError
from .options.ppo import PpoOptions
from .trainers.config import PPOConfig
from .trainers.ppo import PPOTrainer
from .trainers.values import VALUE_FILE

LEARNING_RATE = 1e-6
OWN = {f.name for f in fields(PPOConfig)} - {f.name for f in fields(TrainingArguments)}


def run(options: PpoOptions) -> None:
    named = [options.reward_model, *options.reward_funcs] if options.reward_model else options.reward_funcs
    rewards = open_reward_functions(named, options.trust_remote_code)
    settle, build = partial(settings, rewards), partial(trainer, options, rewards)
    align("ppo", options, open_policy, prompt_dataset, build, settle, LEARNING_RATE)
    if PartialState().is_main_process:
        move_value_model(Path(options.output_dir))


def settings(rewards: list, job) -> tuple[type, dict]:
    """The configuration class, and what it is told beside the options of all commands."""
    check_text(job.options, job.model)
    check_columns(rewards, job.train)
    check_columns(rewards, job.held_out)
    own = {f.name: getattr(job.options, f.name) for f in fields(job.options) if f.name in OWN}
    weights = own["reward_weights"] or [1.0] * len(rewards)
    watched = [0.0] * is_watched(rewards, job.train, job.held_out)
    clip = tuple(own["reward_clip_range"]) or None
    return PPOConfig, own | {"reward_weights": [*weights, *watched], "reward_clip_range": clip}


def trainer(options: PpoOptions, rewards: list, train_dataset, eval_dataset, processing_class, **arguments):
    watched = [judge_reward] * is_watched(rewards, train_dataset, eval_dataset)
    pairs = [reward if isinstance(reward, tuple) else (reward, None) for reward in [*rewards, *watched]]
    text = None
    if options.pretraining_dataset:
        try:
            rows = list(pretraining_rows(options.pretraining_dataset, processing_class, options.ptx_max_length))
        except UserError as error:
            raise UserError(str(error).replace("--dataset", "--pretraining_dataset")) from error
        text = Dataset.from_dict({"input_ids": rows})
    return PPOTrainer(
        reward_funcs=[function for function, _ in pairs],
        reward_processing_classes=[tokenizer for _, tokenizer in pairs],
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processing_class,
        pretraining_dataset=text,
        **arguments,
    )


def move_value_model(directory: Path) -> None:
    """Out of the adapter's folder, where the trainer has put both: it is looked for below the run's directory."""
    beside_adapter = directory / ADAPTER / VALUE_FILE
    if beside_adapter.exists():
        (directory / VALUE_FILE).parent.mkdir(exist_ok=True)
        beside_adapter.replace(directory / VALUE_FILE)
        beside_adapter.parent.rmdir()


def check_text(options: PpoOptions, model) -> None:
    longest = getattr(model.config, "max_position_embeddings", None)
    if options.pretraining_dataset and longest and options.ptx_max_length > longest:
        raise UserError(f"--ptx_max_length {options.ptx_max_length} is longer than the model's {longest} positions")


def pretraining_rows(source: str, tokenizer, length: int) -> Iterator[list[int]]:
    """Documents cut into rows; of each the rest is a row too, unless it is a single token, which predicts nothing."""
    for batch in encode_all((d.text for d in read_documents([source], "train")), tokenizer):
        begin = 0
        for count in batch.lengths.tolist():
            ids, begin = batch.ids[begin : begin + count].tolist(), begin + count
            rows = (ids[i : i + length] for i in range(0, count, length))
            yield from (row for row in rows if len(row) > 1)


if __name__ == "__main__":
    sys.exit(run_command("ppo", sys.argv[1:]))
