"""Scores of completions: functions with the signature of trl's `GRPOTrainer`, and reward models.

A function is called with `prompts`, `completions`, `completion_ids`, every other column of the dataset,
`trainer_state`, `log_extra` and `log_metric`, all by name, and returns one number per completion, None where it does
not apply. It may be a coroutine function. A completion's score is the weighted sum of what applies; what has weight 0
is measured and teaches nothing.

A reward model whose tokenizer is the policy's gets the ids that were generated, with the EOS if there is one, and no
other: text that is rendered and tokenized again may become other tokens, and in trl loses the EOS in plain text, which
`RewardTrainer` had appended. Another tokenizer gets the text.
"""

import asyncio
import inspect
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl.data_utils import apply_chat_template, is_conversational

NOT_COLUMNS = ("prompt", "completion", "completion_ids")


class Rewards:
    """`functions` are callables, models for sequence classification with one label, or names of such models."""

    def __init__(self, functions, tokenizers, weights: list[float] | None, load: dict, policy_tokenizer):
        functions = list(functions) if isinstance(functions, list | tuple) else [functions]
        tokenizers = list(tokenizers) if isinstance(tokenizers, list | tuple) else [tokenizers] * len(functions)
        if not functions:
            raise ValueError("reward_funcs is empty; give at least one function or reward model")
        for what, given in (("reward_weights", weights or functions), ("reward_processing_classes", tokenizers)):
            if len(given) != len(functions):
                raise ValueError(f"{len(given)} {what} for {len(functions)} reward_funcs; give as many")
        self.functions = [_opened(function, load) for function in functions]
        self.weights = torch.tensor(weights or [1.0] * len(functions))
        self.names = _names(self.functions)
        self.policy_tokenizer = policy_tokenizer
        self.tokenizers = [
            _tokenizer(function, tokenizer, policy_tokenizer, load) if isinstance(function, nn.Module) else None
            for function, tokenizer in zip(self.functions, tokenizers, strict=True)
        ]
        self.extra, self.metrics = defaultdict(list), defaultdict(list)  # what functions log

    @property
    def models(self) -> list[nn.Module]:
        return [function for function in self.functions if isinstance(function, nn.Module)]

    def prepare(self, prepare) -> None:
        """Replace each model by what `prepare` makes of it."""
        self.functions = [prepare(f) if isinstance(f, nn.Module) else f for f in self.functions]

    def score(self, rollout: "Scored", trainer_state, device, batch_size: int) -> torch.Tensor:
        """(B, functions), NaN where a function does not apply.

        Raises:
            ValueError: a function returned too many or too few scores, or one that is infinite.
        """
        scores = torch.full((len(rollout.prompts), len(self.functions)), torch.nan, device=device)
        coroutines = {}
        arguments = rollout.arguments() | {
            "trainer_state": trainer_state,
            "log_extra": lambda name, values: self.extra[name].extend(values),
            "log_metric": lambda name, value: self.metrics[name].append(value),
        }
        for i, (function, tokenizer) in enumerate(zip(self.functions, self.tokenizers, strict=True)):
            if isinstance(function, nn.Module):
                scores[:, i] = self._by_model(function, tokenizer, rollout, device, batch_size)
            elif inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
                coroutines[i] = function(**arguments)
            else:
                scores[:, i] = self._checked(i, function(**arguments), rollout, device)
        for i, found in _run(coroutines).items():
            scores[:, i] = self._checked(i, found, rollout, device)
        return scores

    def _checked(self, i: int, found, rollout: "Scored", device) -> torch.Tensor:
        found = list(found)
        if len(found) != len(rollout.prompts):
            raise ValueError(
                f"reward function {self.names[i]} returned {len(found)} scores for {len(rollout.prompts)} completions; "
                "return one for each, None where it does not apply"
            )
        scores = torch.tensor([torch.nan if s is None else float(s) for s in found], device=device)
        if scores.isinf().any():
            row = int(scores.isinf().nonzero()[0])
            raise ValueError(
                f"reward function {self.names[i]} returned {found[row]} for the completion "
                f"{rollout.completions[row]!r}; scores must be finite, or None where it does not apply"
            )
        return scores

    @torch.no_grad()
    def _by_model(self, model, tokenizer, rollout: "Scored", device, batch_size: int) -> torch.Tensor:
        if is_same_tokenizer(tokenizer, self.policy_tokenizer):
            rows = [p + c for p, c in zip(rollout.prompt_ids, rollout.completion_ids, strict=True)]
        else:
            rows = tokenizer(text=rollout.texts(tokenizer), add_special_tokens=False)["input_ids"]
        inputs = tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt").to(device)
        parts = zip(inputs["input_ids"].split(batch_size), inputs["attention_mask"].split(batch_size), strict=True)
        return torch.cat([model(input_ids=i, attention_mask=m).logits[:, 0].float() for i, m in parts])


class Scored:
    """What is scored: dataset rows, prompts, completions as text or messages, and the ids of both."""

    def __init__(self, rows: list[dict], prompt_ids, completion_ids, tokenizer, eos_ids: list[int]):
        self.rows, self.prompt_ids, self.completion_ids = rows, prompt_ids, completion_ids
        self.prompts = [row["prompt"] for row in rows]
        self.ended = [bool(c) and c[-1] in eos_ids for c in completion_ids]
        self.answers = tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
        self.is_conversation = is_conversational({"prompt": self.prompts[0]})
        as_message = [[{"role": "assistant", "content": answer}] for answer in self.answers]
        self.completions = as_message if self.is_conversation else self.answers

    def arguments(self) -> dict:
        """What a reward function gets of it."""
        columns = {name: [row[name] for row in self.rows] for name in self.rows[0] if name not in NOT_COLUMNS}
        named = {"prompts": self.prompts, "completions": self.completions, "completion_ids": self.completion_ids}
        return columns | named

    def texts(self, tokenizer) -> list[str]:
        """As `RewardTrainer` would see it: plain text ends on the EOS if the policy ended it."""
        pairs = list(zip(self.prompts, self.completions, strict=True))
        if self.is_conversation:
            return [apply_chat_template({"messages": p + c}, tokenizer)["text"] for p, c in pairs]
        return [p + c + tokenizer.eos_token * end for (p, c), end in zip(pairs, self.ended, strict=True)]


def weighted(scores: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(B, functions) to (B,), NaN where no function with a weight applies."""
    counts = weights.to(scores) != 0
    scores, weights = scores[:, counts], weights.to(scores)[counts]
    return (scores * weights).nansum(1).masked_fill(scores.isnan().all(1), torch.nan)


def is_same_tokenizer(one, other) -> bool:
    """Whether they make the same ids of the same text or conversation."""
    if one is other:
        return True
    return one.get_vocab() == other.get_vocab() and one.chat_template == other.chat_template


def _run(coroutines: dict) -> dict:
    """All at once, in a thread of their own: a notebook's main thread already has a loop that runs."""
    if not coroutines:
        return {}

    async def gather():
        return await asyncio.gather(*coroutines.values())

    with ThreadPoolExecutor(1) as pool:
        return dict(zip(coroutines, pool.submit(asyncio.run, gather()).result(), strict=True))


def _opened(function, load: dict):
    if isinstance(function, str):
        function = AutoModelForSequenceClassification.from_pretrained(function, num_labels=1, **load)
    if isinstance(function, nn.Module):
        return function.requires_grad_(False).eval()
    if not callable(function):
        raise ValueError(f"reward_funcs has a {type(function).__name__}; use callables, models or names of models")
    return function


def _tokenizer(model, tokenizer, policy_tokenizer, load: dict):
    source = model.config._name_or_path
    if tokenizer is None and source:
        trust = {name: load[name] for name in ("trust_remote_code", "revision") if name in load}
        tokenizer = AutoTokenizer.from_pretrained(source, **trust)
    if tokenizer is None:  # a model that was built here, and saved nowhere
        tokenizer = policy_tokenizer
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id  # it reads the score at the last other token
    return tokenizer


def _names(functions: list) -> list[str]:
    """As trl names them; a number behind those that are there already, or their figures would be mixed up."""
    names = []
    for function in functions:
        if isinstance(function, nn.Module):
            name = (function.config._name_or_path or type(function).__name__).rstrip("/").split("/")[-1]
        else:
            inner = getattr(function, "func", function)  # functools.partial
            name = getattr(inner, "__name__", type(inner).__name__)
        count, first = 1, name
        while name in names:
            count += 1
            name = f"{first}_{count}"
        names.append(name)
    return names
