"""What was measured, as one table or one JSON object with how to measure it again."""

import dataclasses
import math
import shlex

import torch
import transformers

from ... import __version__
from ..options.base import default_of
from ..options.evaluate import EvaluateOptions
from .measured import Measured, Values

Found = dict[str, dict[str, Values]]  # what was measured -> measure -> its parts
Figures = dict[str, dict[str, Measured]]


def figures(found: Found, options: EvaluateOptions) -> Figures:
    return {
        what: {
            measure: values.measured(options.bootstrap_samples, options.seed) for measure, values in measures.items()
        }
        for what, measures in found.items()
    }


def differences(found: Found, others: Found, options: EvaluateOptions) -> Figures:
    """This model's figures less the other's, for all that adds up: perplexities do not, losses do."""
    compared = {}
    for what, measures in found.items():
        compared[what] = {
            measure: values.minus(others[what][measure])
            for measure, values in measures.items()
            if values.show is float and _is_same(values, others[what][measure])
        }
    return figures({what: measures for what, measures in compared.items() if measures}, options)


def _is_same(values: Values, other: Values) -> bool:
    """Whether both are about the same: tokens and windows of them are not, where tokenizers differ; bytes are."""
    return (
        values.about == other.about
        and values.denominators.shape == other.denominators.shape
        and bool((abs(values.denominators - other.denominators) <= 1e-6 * abs(other.denominators)).all())
    )


def table(results: Figures, title: str) -> str:
    """One line a figure."""
    header = [title, "measure", "value", "95% interval", "of"]
    lines = [header]
    for what, measures in results.items():
        for measure, found in measures.items():
            interval = "" if found.low is None else f"{_shown(found.low)} .. {_shown(found.high)}"
            amount = f", {found.amount:,.0f} {found.per}" if found.per else ""
            lines.append([what, measure, _shown(found.value), interval, f"{found.count:,} {found.unit}{amount}"])
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join("  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def described(results: Figures) -> dict:
    """For JSON, which has no word for what is not a number."""
    return {
        what: {
            measure: {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in found._asdict().items()}
            for measure, found in measures.items()
        }
        for what, measures in results.items()
    }


def _shown(value: float) -> str:
    return f"{value:,.4f}" if abs(value) < 1000 else f"{value:,.1f}"


def circumstances(options: EvaluateOptions, **more) -> dict:
    """What it takes to measure the same again."""
    versions = {"rhapsode": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    return {"command": command_line("evaluate", options), "seed": options.seed, "versions": versions | more}


def command_line(command: str, options) -> str:
    """The flags that give these options, wherever they came from."""
    words = ["rhapsode", command]
    for field in dataclasses.fields(options):
        value, flag = getattr(options, field.name), field.metadata["flag"] or f"--{field.name}"
        if value == default_of(field):
            continue
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words += [flag, *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)
