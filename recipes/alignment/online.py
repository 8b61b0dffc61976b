"""Learning from rewards for sampled answers, by trl's trainers: what their commands have in common.

    rollout     G answers to each of some prompts, and their rewards
    steps       --num_iterations passes over it, in --steps_per_generation parts, and then the next one

Where prompts have a reference answer, the judge scores what was sampled as well, with weight 0: a reward that rises
while the judge falls is over-optimised (Gao et al. 2022, arXiv:2210.10760).

trl counts forward passes anew after a resume. So checkpoints fall where a rollout has been used up; then a resumed run
is the run without a break.
"""

import os
from collections.abc import Callable
from math import ceil
from typing import NamedTuple

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import AutoConfig

from ..options.base import UserError
from ..options.online import OnlineOptions
from ..training.whole_checkpoints import with_whole_checkpoints
from .datasets import prompt_dataset
from .judge import judge_reward
from .models import open_policy
from .outcome import align
from .reward_functions import JUDGE, check_columns, is_watched, open_reward_functions
from .training import Job

SAME = ("beta", "num_generations", "max_completion_length", "mask_truncated_completions", "steps_per_generation")
SAME += ("temperature", "num_iterations", "epsilon", "trust_remote_code", "log_completions")


class Rollout(NamedTuple):
    prompts: int  # that it takes, all processes together
    steps: int  # optimizer steps that it lasts


def run_online(command: str, options: OnlineOptions, trainer_class: type, config_class: type, rate: float, **own):
    """Run a command; `own` is what its configuration class is told beside what all of these have."""
    rollout = check_batches(options)
    rewards = open_reward_functions(options.reward_funcs or [JUDGE], options.trust_remote_code)

    def settings(job: Job) -> tuple[type, dict]:
        check_columns(rewards, job.train)
        check_columns(rewards, job.held_out)
        check_reference(job)
        named = {name: getattr(options, name) for name in SAME} | own
        watched = [0.0] * is_watched(rewards, job.train, job.held_out)
        return config_class, named | {
            "reward_weights": [*(options.reward_weights or [1.0] * len(rewards)), *watched],
            "num_generations_eval": 1,  # to more prompts, in place of more answers to each
            "save_steps": save_steps(options, rollout, len(job.train)),
        }

    def build(train_dataset: Dataset, eval_dataset: Dataset, **arguments):
        watched = [judge_reward] * is_watched(rewards, train_dataset, eval_dataset)
        pairs = [reward if isinstance(reward, tuple) else (reward, None) for reward in [*rewards, *watched]]
        functions, tokenizers = map(list, zip(*pairs, strict=True))
        named = {"reward_funcs": functions, "reward_processing_classes": tokenizers}
        return reproducible(trainer_class)(train_dataset=train_dataset, eval_dataset=eval_dataset, **named, **arguments)

    align(command, options, open_policy, prompt_dataset, build, settings, rate)


def check_batches(options: OnlineOptions) -> Rollout:
    """What a rollout is; before anything is opened.

    Raises:
        UserError: answers to a prompt, parts of a rollout or steps between checkpoints that do not come out even.
    """
    o, processes = options, int(os.environ.get("WORLD_SIZE", 1))
    parts = o.steps_per_generation or o.gradient_accumulation_steps
    answers = o.per_device_train_batch_size * parts * processes
    if answers % o.num_generations:
        raise UserError(
            f"--num_generations {o.num_generations}: a rollout has {answers} answers (--per_device_train_batch_size "
            f"{o.per_device_train_batch_size} x --steps_per_generation {parts} x {processes} processes), which is no "
            f"multiple; use {_divisors(answers)}"
        )
    passes, accumulated = parts * o.num_iterations, o.gradient_accumulation_steps
    if passes % accumulated:
        raise UserError(
            f"--gradient_accumulation_steps {accumulated}: a rollout is used in {passes} forward passes "
            f"(--steps_per_generation {parts} x --num_iterations {o.num_iterations}); use {_divisors(passes, 1)}"
        )
    steps = passes // accumulated
    if o.save_steps and o.save_steps % steps:
        raise UserError(f"--save_steps {o.save_steps} is within a rollout, which lasts {steps} steps; use a multiple")
    return Rollout(answers // o.num_generations, steps)


def save_steps(options: OnlineOptions, rollout: Rollout, rows: int) -> int:
    """Steps between checkpoints: those that are asked for, or the fifth of the run that ends with a rollout.

    Raises:
        UserError: too few rows for one rollout, of which trl would make a run without a step.
    """
    if rows < rollout.prompts:
        raise UserError(
            f"--dataset {options.dataset}: {rows} prompts, but a rollout takes {rollout.prompts}; give more rows or "
            f"lower --per_device_train_batch_size or --steps_per_generation"
        )
    in_epoch = rows // rollout.prompts * rollout.steps
    total = options.max_steps or ceil(options.num_train_epochs * in_epoch)
    return options.save_steps or ceil(total / 5 / rollout.steps) * rollout.steps


def check_reference(job: Job) -> None:
    """That the reference, which trl reads from where the model came from, fits the tokenizer."""
    o = job.options
    if not o.beta or o.use_peft:  # there is none, or it is the model without its adapter
        return
    before = AutoConfig.from_pretrained(o.model, trust_remote_code=o.trust_remote_code).get_text_config().vocab_size
    if before != job.model.config.get_text_config().vocab_size:
        raise UserError(
            f"--beta {o.beta}: the model got a token for padding, which its reference on disk lacks; train it with "
            f"rhapsode sft first, or give --use_peft or --beta 0"
        )


def reproducible(trainer_class: type) -> type:
    """The trainer, with rows in an order that depends on the seed and the epoch alone, and answers for an evaluation
    that leave training's random numbers as they are.

    trl draws the order of each epoch from one generator, which a resumed run begins anew.
    """

    class Reproducible(with_whole_checkpoints(trainer_class)):
        def _get_train_sampler(self, dataset=None):
            return EpochSampler(super()._get_train_sampler(dataset), lambda: int(self.state.epoch or 0))

        def evaluate(self, *args, **kwargs):
            device = self.accelerator.device
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(self.args.seed + self.accelerator.process_index)
                return super().evaluate(*args, **kwargs)

    Reproducible.__name__ = trainer_class.__name__
    return Reproducible


class EpochSampler(Sampler):
    """`sampler`, its generator seeded for each epoch by what `epoch` says."""

    def __init__(self, sampler: Sampler, epoch: Callable[[], int]):
        self.sampler, self.epoch = sampler, epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self):
        self.sampler.generator.manual_seed(self.sampler.seed + self.epoch())
        return iter(self.sampler)


def _divisors(number: int, least: int = 2) -> str:
    found = [str(i) for i in range(least, number + 1) if number % i == 0]
    return " or ".join(filter(None, [", ".join(found[:-1]), *found[-1:]])) or "a larger batch"
