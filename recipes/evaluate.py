"""Evaluating a language model: held-out text, tasks, its training text; another model beside it; another harness.

The parts lie in `recipes/evaluation/`. Bits per byte, unlike perplexity, compare models with different tokenizers.
"""

import json
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from transformers import AutoConfig

from ..hub.code import check_before_loading
from ..hub.opening import opening
from .alignment.answering import place
from .cli import run_command
from .evaluation.asking import ask
from .evaluation.likelihood import Opened
from .evaluation.memorization import memorization
from .evaluation.rendering import Example, read_examples
from .evaluation.report import Figures, Found, circumstances, described, differences, figures, table
from .evaluation.task import Task, open_task
from .evaluation.text import Text, save_lines, score_text
from .options.base import UserError
from .options.evaluate import EvaluateOptions
from .training.setup import load_pair, load_tokenizer

LONGEST_BY_DEFAULT = 2048
Asked = list[tuple[Task, list[Example]]]


def run(options: EvaluateOptions) -> None:
    asked = read_tasks(options)  # first, as it is quick and may fail
    _check_new(options)
    if options.harness:
        from .evaluation.harness import check_harness, run_harness, version  # which needs lm_eval

        harness_tasks = check_harness(options)
    check_models(options)
    opened = open_model("model", options)
    found, text, details = measure(opened, asked, options)
    results, more = figures(found, options), {}
    if options.harness:
        results |= run_harness(opened, options, harness_tasks)
        more["lm_eval"] = version()
    compared: Figures = {}
    if options.compare_with:
        del opened  # the two need not lie in memory side by side
        others, _, _ = measure(open_model("compare_with", options), asked, options)
        compared = differences(found, others, options)
    if options.per_document:
        save_lines(Path(options.per_document), text.rows())
    if options.per_example:
        save_lines(Path(options.per_example), details)
    _print(options, results, compared, text, circumstances(options, **more))


def read_tasks(options: EvaluateOptions) -> Asked:
    tasks = [open_task(name) for name in dict.fromkeys(options.tasks)]
    pairs_only = tasks and all(task.options.kind == "minimal_pairs" for task in tasks)
    if options.num_fewshot and pairs_only and not options.harness:
        raise UserError(
            f"--num_fewshot {options.num_fewshot}: minimal pairs have no examples before them "
            f"({', '.join(task.name for task in tasks)})"
        )
    return [(task, read_examples(task, options.num_fewshot, options.max_examples, options.seed)) for task in tasks]


def check_models(options: EvaluateOptions) -> None:
    """What can be known of both models before one of them is measured, which may take hours."""
    for flag in ("model", "compare_with"):
        name = getattr(options, flag)
        if not name:
            continue
        with _naming(flag, name):
            load_tokenizer(name, trust_remote_code=options.trust_remote_code)
            if Path(name, "adapter_config.json").is_file():
                continue  # the configuration is its base model's
            with opening(f"--model {name}", UserError):
                check_before_loading(name, options.trust_remote_code)
                config = AutoConfig.from_pretrained(name, trust_remote_code=options.trust_remote_code)
        length = _length(name, config, options)
        if options.reads_text:
            _stride(options, length)


def open_model(flag: str, options: EvaluateOptions) -> Opened:
    """The model that a flag names."""
    name = getattr(options, flag)
    with _naming(flag, name):
        model, tokenizer = load_pair(name, trust_remote_code=options.trust_remote_code)
        place(model)
    autocast = partial(torch.autocast, model.device.type, torch.bfloat16) if options.bf16 else None
    return Opened(model, tokenizer, _length(name, model.config, options), options.batch_size, autocast)


@contextmanager
def _naming(flag: str, name: str):
    """Errors say which of the two models it is."""
    try:
        yield
    except UserError as error:
        problem = str(error).removeprefix(f"--model {name}: ")
        raise UserError(f"--{flag} {name}: {problem}") from error


def _length(name: str, config, options: EvaluateOptions) -> int:
    """Tokens read at once."""
    longest = getattr(config, "max_position_embeddings", None)
    length = options.max_length or min(longest or LONGEST_BY_DEFAULT, LONGEST_BY_DEFAULT)
    if longest and length > longest:
        raise UserError(f"--max_length {length} is longer than the model's {longest} positions ({name})")
    return length


def measure(opened: Opened, asked: Asked, options: EvaluateOptions) -> tuple[Found, Text | None, list[dict]]:
    """(figures, what is known of each document, what is known of each example)."""
    found: Found = {}
    text, details = None, []
    if options.reads_text:
        text = score_text(opened, options, _stride(options, opened.length))
        found |= text.by_source(options)
    for task, examples in asked:
        outcome = ask(opened, task, examples)
        found[task.name] = outcome.values
        details += [{"task": task.name, **row} for row in outcome.details]
        if outcome.cut:
            cut = f"{outcome.cut} prompts lost their beginning, as {opened.length} tokens are read at once"
            print(f"{task.name}: {cut}", file=sys.stderr)
    if options.memorization:
        found |= memorization(opened, options)
    return found, text, details


def _stride(options: EvaluateOptions, length: int) -> int:
    stride = options.stride or max(1, length // 2)
    if stride >= length:
        raise UserError(f"--stride {stride} leaves no context in a window of {length} tokens; make it less")
    return stride


def _check_new(options: EvaluateOptions) -> None:
    for name in ("per_document", "per_example"):
        path = getattr(options, name)
        if path and Path(path).exists():
            raise UserError(f"--{name} {path}: there is such a file already; name another")
        if path and not Path(path).parent.is_dir():
            raise UserError(f"--{name} {path}: there is no directory {Path(path).parent}; make it first")
    files = [Path(path).resolve() for path in (options.per_document, options.per_example) if path]
    if len(set(files)) < len(files):
        raise UserError(f"--per_document and --per_example are both {options.per_example}; name two files")


def _print(options: EvaluateOptions, results: Figures, compared: Figures, text: Text | None, about: dict) -> None:
    if options.json:
        result = {"model": options.model, **(text.summary() if text else {}), "results": described(results)}
        if options.compare_with:
            result |= {"compare_with": options.compare_with, "differences": described(compared)}
        print(json.dumps(result | about))
        return
    print(table(results, options.model))
    if compared:
        print(f"\n{table(compared, f'less {options.compare_with}')}")
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    print(f"\n{about['command']}\nseed {about['seed']}; {versions}")


if __name__ == "__main__":
    sys.exit(run_command("evaluate", sys.argv[1:]))
