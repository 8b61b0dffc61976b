"""Rows as examples: a prompt, the choices, which of them is right; and prompts with answered examples before them.

    instruction <separator> prompt <delimiter> answer <separator> prompt <delimiter> answer <separator> prompt

Templates are Jinja's in its sandbox: a task file says what to read from a row, and cannot call anything else.
"""

from typing import NamedTuple

import numpy as np
from jinja2 import StrictUndefined, TemplateError, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..alignment.rows import Row
from ..options.base import UserError, one_line
from .task import Task, read_rows


class Example(NamedTuple):
    where: str
    context: str  # shots and prompt
    delimiter: str
    choices: list[str]  # empty where the model writes
    right: int  # number of the right choice
    references: list[str]  # right answers where the model writes


class Renderer:
    """
    Raises:
        UserError: a template that is none; on rendering, a column that is not there, an answer that is no choice.
    """

    def __init__(self, task: Task):
        self.task, self.options = task, task.options
        self._environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        texts = {key: getattr(self.options, key) for key in ("prompt", "good", "bad")}
        texts |= {f"choices[{i}]": text for i, text in enumerate(self.options.choices)}
        expressions = {key: getattr(self.options, key) for key in ("answer", "choices_from")}
        self._templates = {key: self._compiled(key, self._environment.from_string, text) for key, text in texts.items()}
        self._expressions = {
            key: self._compiled(key, self._expression, text) for key, text in expressions.items() if text
        }

    def _compiled(self, key: str, compile, text: str):
        try:
            return compile(text)
        except TemplateError as error:
            raise UserError(f"--tasks {self.task.name}: {key} {text!r:.80}: {one_line(error)}") from error

    def _expression(self, text: str):
        return self._environment.compile_expression(text, undefined_to_none=False)

    def example(self, row: Row) -> Example:
        """The row alone, without shots."""
        if not isinstance(row.values, dict):
            raise UserError(f"--tasks {self.task.name}: {row.where}: {type(row.values).__name__}, not an object")
        prompt = self._text("prompt", row)
        if self.options.kind == "minimal_pairs":
            return Example(row.where, "", "", [self._text("good", row), self._text("bad", row)], 0, [])
        answer = self._value("answer", row)
        if self.options.kind == "generation":
            references = answer if isinstance(answer, list | tuple) else [answer]
            if not references:
                raise self._wrong(row, f"answer {self.options.answer!r} is an empty list; one text or more is needed")
            return Example(row.where, prompt, self.options.delimiter, [], 0, [str(text) for text in references])
        choices = self._choices(row)
        return Example(row.where, prompt, self.options.delimiter, choices, self._right(answer, choices, row), [])

    def _choices(self, row: Row) -> list[str]:
        if self.options.choices:
            choices = [self._text(f"choices[{i}]", row) for i in range(len(self.options.choices))]
        else:
            choices = self._value("choices_from", row)
        if not isinstance(choices, list | tuple) or len(choices) < 2 or not all(map(str, choices)):
            raise self._wrong(row, f"the choices are {choices!r:.80}; two texts or more are needed, none of them empty")
        return [str(choice) for choice in choices]

    def _right(self, answer, choices: list[str], row: Row) -> int:
        if isinstance(answer, str) and answer in choices:
            return choices.index(answer)
        numbers = [str(number) for number in range(len(choices))]
        if isinstance(answer, str) and answer.strip() in numbers and not set(numbers) & set(choices):  # as in CSV
            return numbers.index(answer.strip())
        if isinstance(answer, int) and 0 <= answer < len(choices):
            return int(answer)
        raise self._wrong(row, f"the answer is {answer!r:.40}; it must be one of {choices!r:.80} or its number from 0")

    def _text(self, key: str, row: Row) -> str:
        try:
            return self._templates[key].render(row.values)
        except Exception as error:  # whatever an expression does with what a row holds
            raise self._wrong(row, f"{key}: {one_line(error, 200)}", columns=True) from error

    def _value(self, key: str, row: Row):
        try:
            value = self._expressions[key](row.values)
        except Exception as error:
            raise self._wrong(row, f"{key}: {one_line(error, 200)}", columns=True) from error
        if isinstance(value, Undefined) or value is None:
            raise self._wrong(row, f"{key} {getattr(self.options, key)!r} gives nothing", columns=True)
        return value

    def _wrong(self, row: Row, problem: str, columns: bool = False) -> UserError:
        has = f"; the columns are {', '.join(map(str, row.values))}" if columns else ""
        return UserError(f"--tasks {self.task.name}: {row.where}: {problem}{has}")


def answered(example: Example) -> str:
    return (
        example.context
        + example.delimiter
        + (example.choices[example.right : example.right + 1] or example.references)[0]
    )


def read_examples(task: Task, num_fewshot: int | None, limit: int | None, seed: int) -> list[Example]:
    """The task's examples with their shots, which a seed and the number of the example choose.

    Args:
        num_fewshot: None takes the task's own.
    """
    shots = task.options.num_fewshot if num_fewshot is None else num_fewshot
    if task.options.kind == "minimal_pairs":
        shots = 0
    renderer, (asked, shown) = Renderer(task), read_rows(task, shots, limit)
    if not asked:
        raise UserError(f"--tasks {task.name}: {task.options.dataset} has no row to ask")
    examples = []
    for number, row in enumerate(asked):
        example = renderer.example(row)
        parts = [answered(renderer.example(other)) for other in _drawn(shown, row, shots, [seed, number])]
        parts = [*filter(None, [task.options.instruction]), *parts, example.context]
        examples.append(example._replace(context=task.options.separator.join(parts)))
    return examples


def _drawn(shown: list[Row], row: Row, count: int, seed: list[int]) -> list[Row]:
    """`count` rows other than `row`, in the order of the draw."""
    if not count:
        return []
    order = np.random.default_rng(seed).choice(len(shown), min(count + 1, len(shown)), replace=False)
    return [shown[i] for i in order if shown[i] is not row][:count]
