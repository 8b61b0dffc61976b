"""The stations of the demo: what each needs, and the function that does it.

    tokenizer -> model -> baselines, sample, export
    chat_base -> sft -> pairs -> reward -> ppo -> chat
                              -> dpo

Two that do not wait for each other run at the same time. Of those that could begin, the first in this order does: the
assistant is the longer way.
"""

from typing import NamedTuple


class Station(NamedTuple):
    """`work` is the function's module and name: what it imports takes seconds, and only who runs it needs it."""

    name: str
    title: str
    needs: tuple[str, ...]
    work: str
    arguments: tuple[str, ...] = ()


STATIONS = (
    Station("chat_base", "train the assistant's base model", (), ".assistant:chat_base"),
    Station("tokenizer", "train the tokenizer", (), ".base:tokenizer"),
    Station("sft", "SFT", ("chat_base",), ".assistant:sft"),
    Station("model", "train the base model", ("tokenizer",), ".base:model"),
    Station("pairs", "sample pairs of answers", ("sft",), ".assistant:pairs"),
    Station("reward", "reward model", ("pairs",), ".assistant:reward"),
    Station("ppo", "PPO", ("reward",), ".assistant:ppo"),
    Station("dpo", "DPO", ("pairs",), ".assistant:dpo"),
    Station("baselines", "measure a 5-gram and gzip", ("model",), ".base:baselines"),
    Station("sample", "write a sample", ("model",), ".base:sample"),
    Station("export", "export, and open the export without Rhapsode", ("baselines",), ".base:export"),
    Station("measure_base", "measure the base model's answers", ("sft",), ".assistant:measure_answers", ("chat_base",)),
    Station("measure_sft", "measure SFT's answers", ("sft",), ".assistant:measure_answers", ("sft",)),
    Station("measure_dpo", "measure DPO's answers", ("dpo",), ".assistant:measure_answers", ("dpo",)),
    Station("measure_ppo", "measure PPO's answers", ("ppo",), ".assistant:measure_answers", ("ppo",)),
    Station("chat", "chat", ("ppo",), ".assistant:chat"),
)
