"""Rewards by name: what a sampled answer is worth, told by functions and by reward models.

    judge                  `judge.judge_reward`, for prompts with a `reference`
    file.py:function       a function of a Python file
    module:function        a function of a module that can be imported
    anything else          the directory or Hub id of a reward model, as `rhapsode reward` writes them

A function has the signature of trl's reward functions. It is called by name with `prompts`, `completions` (both lists
of messages), `completion_ids`, every other column of the dataset, and what trl may add, so it ends on `**kwargs`. It
returns one number a completion, or None where it does not apply.
"""

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path

from datasets import Dataset
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from ...hub.code import check_before_loading
from ...hub.opening import opening, without_report
from ..options.base import UserError, one_line
from ..training.setup import load_tokenizer
from .judge import judge_reward

JUDGE = "judge"
ALWAYS_GIVEN = {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"}

Reward = Callable | tuple[PreTrainedModel, PreTrainedTokenizerBase]


def open_reward_functions(specs: list[str], trust_remote_code: bool) -> list[Reward]:
    """For each name a function, or (model, tokenizer) of a reward model in float32, in the order of the names.

    Raises:
        UserError: nothing of that name, a function that cannot be called with `**kwargs`, a model without a trained
            head or with more than one score, a tokenizer without a chat template.
    """
    return [_open(spec, trust_remote_code) for spec in specs]


def names_model(spec: str) -> bool:
    return spec != JUDGE and (":" not in spec or Path(spec).is_dir())


def check_columns(rewards: list[Reward], dataset: Dataset) -> None:
    """That the dataset has the columns which the functions cannot do without.

    Raises:
        UserError: it lacks one.
    """
    for reward in rewards:
        parameters = {} if isinstance(reward, tuple) else inspect.signature(reward).parameters
        needed = {name for name, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
        for name in sorted(needed - ALWAYS_GIVEN - set(dataset.column_names)):
            known = getattr(reward, "__name__", type(reward).__name__)
            raise UserError(f"--dataset: no column {name!r}, which the reward {known} reads")


def is_watched(rewards: list[Reward], *datasets: Dataset) -> bool:
    """Whether the judge looks on, with weight 0: it can, and is not among the rewards."""
    can = all(getattr(d.features.get("reference"), "dtype", None) == "string" for d in datasets)
    return can and judge_reward not in rewards


def _open(spec: str, trust_remote_code: bool) -> Reward:
    if spec == JUDGE:
        return judge_reward
    return _model(spec, trust_remote_code) if names_model(spec) else _function(spec)


def _function(spec: str) -> Callable:
    place, _, name = spec.rpartition(":")
    try:
        function = getattr(_module(place), name, None)
    except Exception as error:  # whatever the user's own module raises while it is read
        kind = type(error).__name__
        raise UserError(f"reward {spec}: {place} cannot be imported ({kind}: {one_line(error, 200)})") from error
    if not callable(function):
        raise UserError(f"reward {spec}: {place} has no function {name!r}")
    if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values()):
        raise UserError(f"reward {spec}: it is called with every column of the dataset; let it take **kwargs as well")
    return function


def _module(place: str):
    if not place.endswith(".py"):
        return importlib.import_module(place)
    description = importlib.util.spec_from_file_location(Path(place).stem, place)
    module = importlib.util.module_from_spec(description)
    description.loader.exec_module(module)
    return module


def _model(spec: str, trust_remote_code: bool) -> Reward:
    path = str(Path(spec)) if Path(spec).is_dir() else spec  # figures go by its last part, which a slash would hide
    settings = {"num_labels": 1, "dtype": "float32", "trust_remote_code": trust_remote_code}
    settings |= {"use_safetensors": True, "ignore_mismatched_sizes": True}  # a head of another size is told of below
    what = "is neither judge, module:function or file.py:function, nor a reward model"
    with opening(f"reward {spec} {what}", UserError), without_report():
        settings |= check_before_loading(path, trust_remote_code)
        model, found = AutoModelForSequenceClassification.from_pretrained(path, output_loading_info=True, **settings)
    if found["missing_keys"] or found["mismatched_keys"]:  # it would score at random
        raise UserError(f"reward {spec}: no head with a single score; train it with rhapsode reward")
    tokenizer = load_tokenizer(spec, trust_remote_code=trust_remote_code)
    if not tokenizer.chat_template:
        raise UserError(f"tokenizer {spec}: it has no chat_template, and rewards are given to conversations")
    model.config.pad_token_id = tokenizer.pad_token_id  # the score is read at the last other token
    return model.requires_grad_(False).eval(), tokenizer
