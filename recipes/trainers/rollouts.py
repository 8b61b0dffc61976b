"""Rollouts: which prompts, their completions, and the tensors that an update reads.

`generate` wants the padding on the left, where it does not stand between prompt and completion. Scoring wants it on
the right, where default positions are right for every model: prompt and completion are put together anew.
"""

from collections.abc import Callable, Iterator

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import GenerationConfig
from trl.data_utils import is_conversational

from ...tokenization.special_tokens import up_to_end
from .config import PPOConfig


class RolloutSampler(Sampler[int]):
    """The rows of a rollout, as often as there are micro-batches that are made of it.

    The order depends on seed and epoch alone, and so is the same after a resumption. Prompts that do not fill a
    rollout at the end of an epoch are left out of this epoch.
    """

    def __init__(self, rows: int, prompts: int, generations: int, repeats: int, seed: int | None, epoch: Callable):
        self.rows, self.prompts, self.generations, self.repeats = rows, prompts, generations, repeats
        self.seed, self.epoch = seed, epoch  # no seed: in the dataset's order

    def __len__(self) -> int:
        return self.rows // self.prompts * self.prompts * self.generations * self.repeats

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.rows))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed + self.epoch())
            order = torch.randperm(self.rows, generator=generator).tolist()
        for start in range(0, self.rows - self.rows % self.prompts, self.prompts):
            for _ in range(self.repeats):
                for row in order[start : start + self.prompts]:
                    yield from [row] * self.generations


def check_data(args: PPOConfig, train_dataset, eval_dataset, pretraining_dataset) -> None:
    several = eval_dataset if isinstance(eval_dataset, dict) else {"eval_dataset": eval_dataset}
    for name, dataset in {"train_dataset": train_dataset, **several}.items():
        if dataset is None and name != "train_dataset":
            continue
        if not isinstance(dataset, Dataset):
            raise TypeError(f"{name} is a {type(dataset).__name__}; it must be a datasets.Dataset, which has a length")
        if "prompt" not in dataset.column_names:
            raise ValueError(f"{name} has the columns {dataset.column_names}; it needs prompt")
    prompts = args.generation_batch_size // args.num_generations
    if len(train_dataset) < prompts:
        raise ValueError(
            f"the dataset has {len(train_dataset)} prompts, but a rollout takes {prompts}; lower steps_per_generation, "
            "per_device_train_batch_size or the number of processes"
        )
    if (pretraining_dataset is None) != (args.ptx_coef == 0):
        raise ValueError(f"ptx_coef={args.ptx_coef} and pretraining_dataset go together; give both or neither")


def sampling_config(args: PPOConfig, tokenizer, eos_ids: list[int]) -> GenerationConfig:
    settings = {
        "max_new_tokens": args.max_completion_length,
        "do_sample": True,
        "use_cache": True,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": eos_ids,
        "disable_compile": True,
    }
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "cache_implementation")
    settings |= {name: getattr(args, name) for name in names}
    return GenerationConfig(**settings | (args.generation_kwargs or {}))


def tokenize_prompts(tokenizer, prompts: list, chat_template_kwargs: dict | None) -> list[list[int]]:
    """Texts, or conversations in which it is the assistant's turn."""
    if not is_conversational({"prompt": prompts[0]}):
        return tokenizer(text=prompts)["input_ids"]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True} | (chat_template_kwargs or {})
    return tokenizer.apply_chat_template(prompts, **options)["input_ids"]


@torch.no_grad()
def generate(policy, prompt_ids: list[list[int]], generation_config, eos_ids: list[int]) -> list[list[int]]:
    """The completion of each prompt, with the EOS that ends it if there is one, and nothing after it."""
    width = max(map(len, prompt_ids))
    pad = generation_config.pad_token_id
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompt_ids], device=policy.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompt_ids], device=policy.device)
    output = policy.generate(input_ids=ids, attention_mask=mask, generation_config=generation_config)
    return [up_to_end(row, eos_ids) for row in output[:, width:].tolist()]


def right_padded(prompt_ids: list[list[int]], completion_ids: list[list[int]], pad: int, device) -> dict:
    """(B, T) `input_ids`, `attention_mask` and, 1 for the tokens of completions, `mask`."""
    rows = list(zip(prompt_ids, completion_ids, strict=True))
    width = max(len(p) + len(c) for p, c in rows)

    def tensor(make, dtype):
        return torch.tensor([make(p, c, width - len(p) - len(c)) for p, c in rows], dtype=dtype, device=device)

    return {
        "input_ids": tensor(lambda p, c, rest: p + c + [pad] * rest, torch.long),
        "attention_mask": tensor(lambda p, c, rest: [1] * (len(p) + len(c)) + [0] * rest, torch.long),
        "mask": tensor(lambda p, c, rest: [0] * len(p) + [1] * len(c) + [0] * rest, torch.float32),
    }
