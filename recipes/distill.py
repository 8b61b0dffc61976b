"""Distillation: a smaller student learns what a larger teacher makes of each token (Hinton et al. 2015,
arXiv:1503.02531), of the dataset's answers and of its own (Agarwal et al. 2023, arXiv:2306.13649).

    L = mean over the answer's tokens of D(p, q)      p the teacher's distribution of the next token, q the student's
    D = KL(p || q) for beta 0, KL(q || p) for beta 1, else
        beta KL(p || m) + (1 - beta) KL(q || m)       m = beta p + (1 - beta) q

by trl's DistillationTrainer. What is reported beside the student's answers: what teacher and student lose on held-out
answers, and KL(teacher || student) there, before and after.
"""

import sys
from dataclasses import replace
from functools import partial

from transformers import set_seed
from trl import DistillationConfig

from .alignment.answering import place
from .alignment.datasets import sft_dataset
from .alignment.distillation import Distiller, compare_losses
from .alignment.evaluation import answers_of, compare, evaluation_prompts
from .alignment.judge import measure
from .alignment.models import open_policy
from .alignment.outcome import finish
from .alignment.training import Job, arguments, prepare, train
from .cli import run_command
from .options.base import UserError
from .options.distill import DistillOptions
from .options.pretrain import PretrainOptions
from .trainers.rewards import is_same_tokenizer
from .training.setup import load_model, open_model

LEARNING_RATE = 2e-5
SAME = ("beta", "temperature", "max_completion_length", "trust_remote_code")


def run(options: DistillOptions) -> None:
    teacher, tokenizer = open_teacher(options)
    student = partial(open_student, tokenizer=tokenizer, vocab_size=teacher.config.vocab_size)
    job = prepare("distill", options, student, read)
    check_same(job, teacher, tokenizer)
    args = arguments(job, DistillationConfig, LEARNING_RATE, **{name: getattr(options, name) for name in SAME})
    check_rows(job, args)
    rows = evaluation_prompts(job) if args.process_index == 0 else []
    before = figures(job, place(job.model), place(teacher), rows) if args.process_index == 0 else {}
    results = train(job, partial(Distiller, teacher_model=teacher, lmbda=options.lmbda), args)
    if args.process_index == 0:
        model = place(load_model(str(job.directory), trust_remote_code=options.trust_remote_code))
        after = compare_losses(model, place(teacher), job.tokenizer, job.held_out, options.per_device_eval_batch_size)
        results.pop("eval_completions/mean_length", None)  # of answers that were given to it
        results |= {"loss_before": before["student"], "loss_after": after["student"], "loss_teacher": after["teacher"]}
        results |= {"kl_before": before["kl"], "kl_after": after["kl"]}
        results |= compare(job, model, rows, before["answers"], with_kl=False)
        finish(job, results | before["judged"])
    args.distributed_state.wait_for_everyone()


def read(source: str, split: str, seed: int, limit: int | None):
    """`prompt` and, as `completion`, the last answer of each conversation."""
    table = sft_dataset(source, split, seed, limit)
    if "tools" in table.column_names:
        raise UserError(
            f"--dataset {source}: conversations with tools cannot be distilled; leave out the column 'tools'"
        )
    if "messages" not in table.column_names:
        return table
    parts = {"prompt": [m[:-1] for m in table["messages"]], "completion": [m[-1:] for m in table["messages"]]}
    return type(table).from_dict(parts, on_mixed_types="use_json")


def open_teacher(options: DistillOptions):
    try:
        return open_policy(replace(options, model=options.teacher, preset=None, config_overrides=[], use_peft=False))
    except UserError as error:
        raise UserError(str(error).replace("--model", "--teacher")) from error


def open_student(options: DistillOptions, tokenizer, vocab_size: int, **kwargs):
    """(model, tokenizer); new weights, from the seed, have the teacher's tokenizer and rows of the vocabulary."""
    if options.model:
        return open_policy(options, teach_chat=True, **kwargs)
    set_seed(options.seed)
    overrides = [f"vocab_size={vocab_size}", *options.config_overrides]
    design = PretrainOptions(preset=options.preset, config_overrides=overrides)
    if options.attn_implementation:
        design = replace(design, attn_implementation=options.attn_implementation)
    return open_model(design, tokenizer), tokenizer


def check_same(job: Job, teacher, tokenizer) -> None:
    """That both mean the same token by an id, and write a conversation alike."""
    o = job.options
    if not is_same_tokenizer(job.tokenizer, tokenizer):
        raise UserError(
            f"--teacher {o.teacher}: its tokenizer has another vocabulary or chat template than the student's; distill "
            f"into a student that was trained with the teacher's tokenizer, or into a --preset"
        )
    sizes = [model.config.get_text_config().vocab_size for model in (teacher, job.model)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"--teacher {o.teacher}: vocab_size is {sizes[0]}, and the student's {sizes[1]}; they must be equal"
        )


def check_rows(job: Job, args) -> None:
    """That there is a whole batch, without which trl makes a run without a step."""
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    if len(job.train) < batch:
        raise UserError(
            f"--dataset {job.options.dataset}: {len(job.train)} rows, but a step takes {batch}; give more rows or "
            f"lower --per_device_train_batch_size or --gradient_accumulation_steps"
        )


def figures(job: Job, student, teacher, rows: list[dict]) -> dict:
    """What both are worth before the first step: `compare_losses`, the student's answers, the teacher's judged."""
    found = compare_losses(student, teacher, job.tokenizer, job.held_out, job.options.per_device_eval_batch_size)
    known = [row for row in rows if row["reference"] is not None]
    judged = {"teacher": measure(known, answers_of(job, teacher, known))} if known else {}
    return found | {"answers": answers_of(job, student, rows), "judged": judged}


if __name__ == "__main__":
    sys.exit(run_command("distill", sys.argv[1:]))
