"""Abstention: a model learns to say "I don't know." to what it does not know (Grattafiori et al. 2024, Llama 3,
arXiv:2407.21783, section 4.3.6; the idea is in Ouyang et al. 2022, InstructGPT, arXiv:2203.02155, too).

    ask each question several times -> known, if enough of the answers are right -> data:
        known        the reference            preferred to wrong answers and to an abstention
        unknown      "I don't know."          preferred to what the model made up

So the data follow the model: to teach answers that it does not have would teach it to invent, and what it has can be
told from its own samples (Kadavath et al. 2022, arXiv:2207.05221). Abstentions are measured against the model before:
precision is the share of them on questions that it did not know, or that have no answer; recall is the share of those
questions that are abstained on.
"""

import importlib
import json
import sys
from pathlib import Path

from accelerate import PartialState

from .alignment.answering import place
from .alignment.conversations import assistant
from .alignment.datasets import prompt_dataset, size_of
from .alignment.judge import ABSTENTION, abstains, measure
from .alignment.knowledge import agreement_bins, ask, greedy, read_questions, separation
from .alignment.lengths import leave_out_long
from .alignment.models import open_policy, row_length
from .alignment.preferences import sampled_pairs
from .alignment.report import save_results
from .cli import run_command
from .options.abstain import AbstainOptions
from .options.alignment import AlignmentOptions
from .options.base import RESOLVED, UserError, parse, save_resolved, write_whole
from .options.output import check_output
from .training.setup import made_directory

DATA = {"sft": "sft.jsonl", "dpo": "preferences.jsonl"}
HELD_OUT = "held_out.jsonl"
SAMPLES = 12


def run(options: AbstainOptions) -> None:
    if PartialState().num_processes > 1:
        raise UserError("abstain samples in one process; run it without a launcher")
    directory = check_output(options, "abstain", {"train", "train_config"})
    if options.before:
        results = measured_again(options)
        begin(options)
    else:
        results = ask_and_write(options, directory)
    report = save_results(directory, results)
    said = [
        f"abstention {name} {results[when][f'abstention_{name}']:.3f} {when}"
        for name in ("precision", "recall")
        for when in ("before", "after")
        if when in results
    ]
    print("; ".join([*said, f"report: {report}"]), file=sys.stderr, flush=True)


def ask_and_write(options: AbstainOptions, directory: Path) -> dict:
    """The whole run; what the report tells."""
    asked, known, left_out = ask_all(options, directory)
    demonstrations, preferences = data(asked, options)
    for rows, name in ((demonstrations, DATA["sft"]), (preferences, DATA["dpo"])):
        write_whole(directory / name, "".join(json.dumps(row) + "\n" for row in rows))
    results = {
        "knowledge": {"training questions": knowledge(asked), "held-out questions": knowledge(known)},
        "left_out": left_out,
        "written": {DATA["sft"]: len(demonstrations), DATA["dpo"]: len(preferences)},
        "agreement": agreement_bins([*asked, *known]),
        "separation": separation([*asked, *known]),
    }
    if options.train == "none":
        return results | compared(known, None)
    return results | compared(known, answers_of(options, train_on(options, directory, bool(preferences)), known))


def ask_all(options: AbstainOptions, directory: Path) -> tuple[list[dict], list[dict], int]:
    """(training questions, held-out questions, how many were too long); the directory begins to exist."""
    tables = [read(options, is_held_out) for is_held_out in (False, True)]
    model, tokenizer, limit = open_model(options, options.model)
    train, cut = leave_out_long(tables[0], tokenizer, limit, f"--dataset {options.dataset}")
    held_out, cut_held_out = leave_out_long(tables[1], tokenizer, limit, "the held-out data")
    begin(options)
    asked = ask(model, tokenizer, list(train), options, directory / "samples.jsonl")
    return asked, ask(model, tokenizer, list(held_out), options, directory / HELD_OUT), cut + cut_held_out


def answers_of(options: AbstainOptions, directory: Path | str, rows: list[dict]) -> list[str]:
    """Greedy answers of the model in a directory."""
    model, tokenizer, _ = open_model(options, str(directory))
    return greedy(model, tokenizer, rows, options.max_new_tokens, options.per_device_eval_batch_size)


def read(options: AbstainOptions, is_held_out: bool):
    """Questions with their references; of the library, the held-out ones ask about what can be known in other words."""
    split = "train" if not is_held_out else "validation" if size_of(options.dataset) is None else "rephrased"
    limit = options.max_eval_samples if is_held_out else options.max_samples
    rows = prompt_dataset(options.dataset, split, options.seed, limit)
    missing = [
        i for i, text in enumerate(rows["reference"] if "reference" in rows.column_names else [None]) if not text
    ]
    if missing:
        raise UserError(f"--dataset {options.dataset}: {split} row {missing[0] + 1} has no text in column 'reference'")
    if "is_real" not in rows.column_names:
        rows = rows.add_column("is_real", [not abstains(text) for text in rows["reference"]])
    return rows.select_columns(["prompt", "reference", "is_real"])


def open_model(options: AbstainOptions, model: str):
    """(model, tokenizer, tokens of a prompt at most)."""
    tokenizer = options.tokenizer if model == options.model else None
    same = AlignmentOptions(model=model, tokenizer=tokenizer, trust_remote_code=options.trust_remote_code)
    opened, tokenizer = open_policy(same)
    room = row_length(same, opened) - options.max_new_tokens
    if room < 1:
        raise UserError(
            f"--max_new_tokens {options.max_new_tokens} leaves no room for a question among the "
            f"{room + options.max_new_tokens} tokens that the model reads; make it less"
        )
    return place(opened), tokenizer, room


def begin(options: AbstainOptions) -> None:
    with made_directory(options) as directory:
        save_resolved(options, directory / RESOLVED, "abstain")


def data(asked: list[dict], options: AbstainOptions) -> tuple[list[dict], list[dict]]:
    """Demonstrations and preferences, in trl's conversational formats."""
    targets = [row | ({} if row["is_real"] else {"reference": ABSTENTION}) for row in _as_known(asked)]
    demonstrations = [
        {
            "messages": [*row["prompt"], assistant(row["reference"])],
            "known": row["known"],
            "agreement": row["agreement"],
        }
        for row in targets
    ]
    spoken = [[text for text in row["answers"] if text] for row in asked]  # an empty answer is no message
    return demonstrations, sampled_pairs(targets, spoken, options.seed, per_prompt=options.num_pairs)


def _as_known(asked: list[dict]) -> list[dict]:
    """The questions as the judge is to see them: one that the model did not know is one without an answer."""
    return [row | {"is_real": row["is_real"] and row["known"]} for row in asked]


def knowledge(asked: list[dict]) -> dict[str, float]:
    return {
        "questions": len(asked),
        "known": sum(row["known"] for row in asked) / len(asked),
        "right": sum(row["right"] for row in asked) / len(asked),
        "agreement": sum(row["agreement"] for row in asked) / len(asked),
    }


def compared(known: list[dict], after: list[str] | None) -> dict:
    """The judge and the abstentions on the held-out questions, as `_as_known` has them."""
    texts = {"before": [row["greedy"] for row in known]} | ({} if after is None else {"after": after})
    samples = [
        {"prompt": row["prompt"][-1]["content"], "reference": row["reference"]} | {k: v[i] for k, v in texts.items()}
        for i, row in enumerate(known[:SAMPLES])
    ]
    return {when: measure(_as_known(known), found) for when, found in texts.items()} | {"samples": samples}


def train_on(options: AbstainOptions, directory: Path, has_pairs: bool) -> Path:
    """The directory of the model that `rhapsode sft` or `rhapsode dpo` makes of the data."""
    if options.train == "dpo" and not has_pairs:
        raise UserError("--train dpo: no two answers to a question differ in worth, so there are no pairs; use sft")
    target = directory / options.train
    module, settings = (
        importlib.import_module(f".{name}", __package__) for name in (options.train, f"options.{options.train}")
    )
    arguments = ["--config", options.train_config] if options.train_config else []
    arguments += [
        "--model",
        options.model,
        "--dataset",
        str(directory / DATA[options.train]),
        "--output_dir",
        str(target),
    ]
    arguments += ["--tokenizer", options.tokenizer] if options.tokenizer else []
    arguments += ["--trust_remote_code"] if options.trust_remote_code else []
    arguments += ["--resume"] if (target / RESOLVED).exists() else []
    kind = getattr(settings, f"{options.train.capitalize()}Options")
    module.run(parse(kind, arguments, f"rhapsode {options.train}", ""))
    return target


def measured_again(options: AbstainOptions) -> dict:
    """The answers of `--model` to the held-out questions of the run before, beside those of then."""
    known = read_questions(Path(options.before) / HELD_OUT)
    return compared(known, answers_of(options, options.model, known))


if __name__ == "__main__":
    sys.exit(run_command("abstain", sys.argv[1:]))
