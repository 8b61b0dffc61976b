"""What a task file may say: the keys of a YAML file for `rhapsode evaluate --tasks FILE.yaml`."""

import re
from dataclasses import dataclass

from .base import UserError, option

KINDS = ("multiple_choice", "minimal_pairs", "generation")
# What a kind reads beside `dataset` and `split`, and which of it there must be.
KEYS = {
    "multiple_choice": {"prompt", "choices", "choices_from", "answer", "delimiter", "instruction", "separator"},
    "minimal_pairs": {"good", "bad"},
    "generation": {"prompt", "answer", "delimiter", "instruction", "separator", "until", "max_new_tokens"},
}
KEYS["multiple_choice"] |= {"num_fewshot", "fewshot_split"}
KEYS["generation"] |= {"num_fewshot", "fewshot_split", "extract", "ignore"}
NEEDED = {"multiple_choice": ("prompt", "answer"), "minimal_pairs": ("good", "bad"), "generation": ("prompt", "answer")}


@dataclass
class TaskOptions:
    """Templates and expressions are Jinja's, over the columns of a row."""

    kind: str = option("multiple_choice", "what is asked", KINDS)
    dataset: str = option("", "a file, directory or glob of rows, a Hub id, or python:NAME")
    split: str | None = option(None, "whose rows are asked; none is test, or the only one that there is")
    prompt: str = option("", "template of the question")
    choices: list[str] = option([], "templates of the choices")
    choices_from: str = option("", "expression that gives the list of choices, in place of choices")
    answer: str = option("", "expression of the right choice, its text or its number from 0; or of the text to write")
    good: str = option("", "template of the sentence that is to be likelier")
    bad: str = option("", "template of the other one")
    instruction: str = option("", "text before everything else")
    delimiter: str = option(" ", "between a prompt and its answer")
    separator: str = option("\n\n", "between examples")
    num_fewshot: int = option(0, "answered examples before each question")
    fewshot_split: str | None = option(None, "where they are from; none is train, or without it the other rows")
    until: list[str] = option(["\n"], "texts that end what the model writes")
    max_new_tokens: int = option(64, "tokens to write at most")
    extract: str = option("", "regular expression whose first match is the answer, its group if it has one")
    ignore: list[str] = option([], "regular expressions that are taken out before two texts are compared")

    def __post_init__(self):
        for key in ("dataset", *NEEDED[self.kind]):
            if not getattr(self, key):
                raise UserError(f"{key} is missing, which a task of kind {self.kind} needs")
        if self.kind == "multiple_choice" and bool(self.choices) == bool(self.choices_from):
            raise UserError("a task of kind multiple_choice needs choices or choices_from, and not both")
        if len(set(self.choices)) < len(self.choices):
            raise UserError(f"choices={self.choices!r:.80} has one of them twice; name each once")
        if self.num_fewshot < 0 or self.max_new_tokens < 1:
            raise UserError("num_fewshot must be 0 or more, max_new_tokens 1 or more")
        for pattern in (self.extract, *self.ignore):
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"{pattern!r} is not a regular expression ({error})") from error
        if self.kind == "generation" and not all(self.until):
            raise UserError("until holds an empty text, which ends every answer at once")
