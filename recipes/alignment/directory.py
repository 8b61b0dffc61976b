"""The run directory of an alignment command: what may be in it before, and what stands in it from the beginning."""

from pathlib import Path

from ..options.alignment import AlignmentOptions
from ..options.base import RESOLVED, UserError, save_resolved
from ..options.output import check_output
from ..reporting.report import save_facts
from ..training.setup import made_directory

# What a resumed run may have otherwise than the run it continues: nothing here changes a weight.
FREE_ON_RESUME = {
    *("logging_steps", "eval_steps", "save_steps", "save_total_limit", "report_to", "merge_adapter"),
    *("eval_dataset", "max_eval_samples", "eval_prompts", "max_new_tokens", "per_device_eval_batch_size"),
    "max_skipped_steps",
}


def check_directory(options: AlignmentOptions, command: str) -> Path:
    """The run directory; nothing is written yet.

    Raises:
        UserError: what `check_output` refuses, and the directory of a model that the run starts from.
    """
    sources = [options.model, getattr(options, "teacher", None)]
    if any(source and Path(options.output_dir).resolve() == Path(source).resolve() for source in sources):
        raise UserError(f"--output_dir {options.output_dir} is the model that the run starts from; name another")
    return check_output(options, command, FREE_ON_RESUME)


def begin(options: AlignmentOptions, command: str, tokenizer, facts: dict) -> None:
    """On the main process, before the first step: the directory, the options, the tokenizer, the facts."""
    with made_directory(options) as directory:
        save_resolved(options, directory / RESOLVED, command)
        tokenizer.save_pretrained(directory)
        save_facts(directory, facts)
