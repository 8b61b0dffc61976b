"""The same model, as it lies in memory, through lm-evaluation-harness (Gao et al. 2021).

Its own tasks by their names; ours are handed over as finished prompts and choices, so that what is compared is how
they are encoded, batched, scored and counted. Texts become ids in the one way that all of Rhapsode has: its own calls
the tokenizer, which adds a BOS for one family and none for another.

    ours                   its
    accuracy               acc
    accuracy_per_byte      acc_bytes (acc_norm counts characters)
    exact_match            exact_match
"""

import math
from difflib import get_close_matches
from functools import partial

import datasets
import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from ...tokenization.encoding import encode_prompt, encode_texts
from ..alignment.answering import padded
from ..generation.writing import pad_token
from ..options.base import UserError, one_line
from ..options.evaluate import EvaluateOptions
from .asking import alike, reference
from .likelihood import Opened
from .measured import Measured
from .rendering import read_examples
from .report import Figures
from .task import open_task, shipped

NORMAL_QUANTILE = 1.96  # 95% of a normal distribution lie within it, in standard errors


class HarnessModel(HFLM):
    """What the harness calls a model."""

    def __init__(self, opened: Opened):
        super().__init__(
            pretrained=opened.model,
            tokenizer=opened.tokenizer,
            backend="causal",
            batch_size=opened.batch_size,
            max_length=opened.length,
        )

    def tok_encode(self, string: str, add_special_tokens=None, left_truncate_len=None, **kwargs) -> list[int]:
        plain = add_special_tokens is False
        ids = encode_texts(self.tokenizer, [string])[0] if plain else encode_prompt(self.tokenizer, string)
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def tok_batch_encode(self, strings, padding_side="left", left_truncate_len=None, truncation=False):
        rows = [self.tok_encode(string, left_truncate_len=left_truncate_len) for string in strings]
        return padded(rows, pad_token(self.tokenizer), self.device, left=padding_side == "left")


def version() -> str:
    return lm_eval.__version__


def run_harness(opened: Opened, options: EvaluateOptions, tasks: TaskManager) -> Figures:
    """The figures of --harness, as the harness has them.

    Raises:
        UserError: a task that neither knows.
    """
    results = {}
    for found in measure_in_harness(opened, options, tasks):
        for name, measures in found["results"].items():
            count = found["n-samples"].get(name, {}).get("effective", 0)
            figures = {}
            for key, value in measures.items():
                measure, comma, kept = key.partition(",")
                if comma and not measure.endswith("_stderr") and isinstance(value, float | int):
                    error = measures.get(f"{measure}_stderr,{kept}")
                    label = measure if kept == "none" else f"{measure} ({kept})"
                    figures[label] = _measured(float(value), error, count)
            results[f"lm_eval: {name}"] = figures
    return results


def check_harness(options: EvaluateOptions) -> TaskManager:
    """What can be known before anything is measured; its list of tasks, which takes it many seconds to make.

    Raises:
        UserError: a task that neither knows, or one of ours that is no good.
    """
    ours, its = _told_apart(options)
    for name in ours:
        try:
            read_examples(open_task(name), options.num_fewshot, options.max_examples, options.seed)
        except UserError as error:
            raise UserError(f"--harness {str(error).removeprefix('--tasks ')}") from error
    tasks = TaskManager()
    known = tasks.task_index
    for name in its:
        if name not in known:
            nearest = get_close_matches(name, [*shipped(), *known], n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else "see `lm_eval ls tasks`, or give a .yaml file of ours"
            raise UserError(f"--harness {name}: no such task; {hint}")
    return tasks


def _told_apart(options: EvaluateOptions) -> tuple[list[str], list[str]]:
    """(our tasks, its own)."""
    ours = [name for name in options.harness if name in shipped() or name.endswith((".yaml", ".yml"))]
    return ours, [name for name in options.harness if name not in ours]


def measure_in_harness(opened: Opened, options: EvaluateOptions, tasks: TaskManager) -> list[dict]:
    """What `lm_eval.simple_evaluate` returns, for our tasks and for its own."""
    ours, its = _told_apart(options)
    seeds = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
    evaluate = partial(
        lm_eval.simple_evaluate,
        model=HarnessModel(opened),
        task_manager=tasks,
        limit=options.max_examples,
        bootstrap_iters=options.bootstrap_samples,
        **dict.fromkeys(seeds, options.seed),
    )
    found = [evaluate(tasks=[harness_task(name, options) for name in ours])] if ours else []
    if its:
        try:
            found.append(evaluate(tasks=its, num_fewshot=options.num_fewshot))
        except (KeyError, ValueError, OSError) as error:
            raise UserError(f"--harness {' '.join(its)}: {one_line(error, 300)}") from error
    return found


def harness_task(name: str, options: EvaluateOptions) -> dict:
    """One of our tasks as the harness's configuration, over prompts that have their shots already."""
    task = open_task(name)
    examples = read_examples(task, options.num_fewshot, options.max_examples, options.seed)
    rows = [
        {"context": e.context, "choices": e.choices, "right": e.right, "references": e.references} for e in examples
    ]
    common = {
        "task": task.name,
        "custom_dataset": lambda **kwargs: {"test": datasets.Dataset.from_list(rows)},
        "test_split": "test",
        "doc_to_text": "context",
        "num_fewshot": 0,
    }
    average = {"aggregation": "mean", "higher_is_better": True}
    if task.options.kind != "generation":
        metrics = [{"metric": metric, **average} for metric in ("acc", "acc_norm", "acc_bytes")]
        return common | {
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": "right",
            "target_delimiter": examples[0].delimiter,
            "metric_list": metrics if task.options.kind == "multiple_choice" else metrics[:1],
        }
    asked = task.options
    return common | {
        "output_type": "generate_until",
        "doc_to_target": "{{references[0]}}",
        "generation_kwargs": {"until": asked.until, "max_gen_toks": asked.max_new_tokens, "do_sample": False},
        "process_results": lambda doc, results: {"exact_match": float(_is_right(results[0], doc, asked))},
        "metric_list": [{"metric": "exact_match", **average}],
    }


def _is_right(text: str, doc: dict, asked) -> bool:
    answer = alike(text, asked.extract, asked.ignore)
    return answer is not None and answer in [reference(text, asked) for text in doc["references"]]


def _measured(value: float, error, count: int) -> Measured:
    if not isinstance(error, float) or math.isnan(error):
        return Measured(value, None, None, count, "examples")
    return Measured(value, value - NORMAL_QUANTILE * error, value + NORMAL_QUANTILE * error, count, "examples")
