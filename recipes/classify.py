"""A classifier of texts, as GPT-1 (Radford et al. 2018): a linear head on the last token, all weights trained.

    P(y | x_1 .. x_T) = softmax(W_y h_T)        L = L_labels + lm_coef L_text        (`classification/training.py`)

The last token is EOS. Differences from GPT-1: two texts are parted by EOS, no token is new; the rate is not tuned; of
texts whose order means nothing (similarity) only the order given is read. What is reported is measured on the directory
that was saved, beside the answer that is best without reading.
"""

import sys
from functools import partial

from datasets import Dataset
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase, TrainingArguments

from .alignment.answering import place
from .alignment.directory import check_directory
from .alignment.models import open_scorer, row_length
from .alignment.outcome import finish
from .alignment.ranking import scores
from .alignment.training import Job, arguments, train
from .classification.encoding import assemble, encode_rows, shortened, teach
from .classification.labels import Labels, find_labels
from .classification.measures import confusion, constant_answer, decide, measure
from .classification.tables import read_rows
from .classification.training import ClassificationTrainer, TextHead
from .cli import run_command
from .options.base import UserError
from .options.classify import ClassifyOptions
from .training.partial import freeze
from .training.tracking import check_trackers

LEARNING_RATE = 2e-5


def run(options: ClassifyOptions) -> None:
    job, labels, cut = prepare(options)
    text_head = TextHead(options, job.model) if options.lm_coef else None
    args = arguments(job, TrainingArguments, LEARNING_RATE, label_names=["labels"])
    results = train(job, partial(ClassificationTrainer, labels, text_head), args)
    if args.process_index == 0:
        finish(job, results | {"cut": cut or None} | evaluate(job, labels))
    args.distributed_state.wait_for_everyone()


def prepare(options: ClassifyOptions) -> tuple[Job, Labels, int]:
    """The model and the encoded rows, what the labels mean, how many rows were cut; nothing is written."""
    check_trackers(options.report_to)
    directory = check_directory(options, "classify")
    tables = {"train": read_rows(options, "train"), "held_out": read_rows(options, "validation")}
    labels = find_labels(((row["where"], row["label"]) for row in tables["train"]), options.problem_type)
    # A head of another size, such as that of a reward model, is made anew.
    open = partial(open_scorer, chats=False, ignore_mismatched_sizes=True, **labels.settings)
    model, tokenizer = open(options)
    freeze(model, options.freeze)
    length = row_length(options, model)
    teach(tokenizer, length)
    encoded, left_out, cut = {}, {}, 0
    for key, rows in tables.items():
        encoded[key], left_out[key], more = encode(rows, labels, tokenizer, length, options.truncation, key)
        cut += more
    return Job("classify", options, open, directory, model, tokenizer, length, *encoded.values(), left_out), labels, cut


def encode(
    rows: list[dict], labels: Labels, tokenizer: PreTrainedTokenizerBase, length: int, cuts: bool, what: str
) -> tuple[Dataset, int, int]:
    """(`input_ids` and `labels` of each row, how many rows were too long, how many of them were cut and not left out).

    Raises:
        UserError: no row is short enough.
    """
    kept, too_long = [], 0
    for row, texts in zip(rows, encode_rows(tokenizer, rows), strict=True):
        label = labels.encode(row["label"], row["where"])
        ids = assemble(tokenizer, texts)
        excess = len(ids) - length
        if excess > 0:
            too_long += 1
            if not cuts or excess > sum(map(len, texts)):
                continue
            ids = assemble(tokenizer, shortened(texts, excess))
        kept.append({"input_ids": ids, "labels": label})
    if not kept:
        raise UserError(f"no {what} row has at most {length} tokens; raise --max_length or cut with --truncation")
    left_out = len(rows) - len(kept)
    return Dataset.from_list(kept), left_out, too_long - left_out


def evaluate(job: Job, labels: Labels) -> dict:
    """What the saved model says of the held-out rows."""
    model = AutoModelForSequenceClassification.from_pretrained(
        job.directory, trust_remote_code=job.options.trust_remote_code, dtype="float32"
    )
    logits = scores(place(model), job.tokenizer, job.held_out["input_ids"], job.options.per_device_eval_batch_size)
    truth, answers = job.held_out["labels"], decide(logits.numpy(), labels)
    constant = constant_answer(job.train["labels"], len(truth), labels)
    return {
        "classification": {"model": measure(truth, answers, labels), "constant": measure(truth, constant, labels)},
        "confusion": confusion(truth, answers, labels),
    }


if __name__ == "__main__":
    sys.exit(run_command("classify", sys.argv[1:]))
