"""Tasks: what a file may say, how rows become prompts, and what counts as right."""

import ast
import json

import numpy as np
import pytest
from rhapsode.recipes.evaluation import asking
from rhapsode.recipes.evaluation.asking import alike, ask, is_best, until
from rhapsode.recipes.evaluation.likelihood import Likelihood, Opened
from rhapsode.recipes.evaluation.python_rows import TABLES, python_tables
from rhapsode.recipes.evaluation.rendering import read_examples
from rhapsode.recipes.evaluation.task import open_task, shipped
from rhapsode.recipes.options.base import UserError
from transformers import AutoTokenizer

ROWS = [
    {"text": "What a film.", "label": "positive", "number": 1},
    {"text": "I left.", "label": "negative", "number": 0},
    {"text": "So dull.", "label": "negative", "number": 0},
    {"text": "Lovely {{ number }}.", "label": "positive", "number": 1},
]
SENTIMENT = """
kind: multiple_choice
dataset: rows.jsonl
prompt: "{{ text }}\\nThe sentiment of the sentence is:"
choices: [negative, positive]
answer: label
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def task_of(folder, text: str):
    (folder / "task.yaml").write_text(text)
    return open_task(str(folder / "task.yaml"))


def test_a_row_becomes_a_prompt_with_choices(folder):
    examples = read_examples(task_of(folder, SENTIMENT), None, None, 0)
    assert [e.right for e in examples] == [1, 0, 0, 1]
    assert examples[0].context == "What a film.\nThe sentiment of the sentence is:"
    assert (examples[0].choices, examples[0].delimiter) == (["negative", "positive"], " ")
    assert examples[3].context.startswith("Lovely {{ number }}.")  # what a row says is no template
    by_number = SENTIMENT.replace("answer: label", "answer: number")
    assert [e.right for e in read_examples(task_of(folder, by_number), None, None, 0)] == [1, 0, 0, 1]
    listed = SENTIMENT.replace("choices: [negative, positive]", "choices_from: \"['negative', 'pos' ~ 'itive']\"")
    assert read_examples(task_of(folder, listed), None, None, 0)[2].choices == ["negative", "positive"]
    assert len(read_examples(task_of(folder, SENTIMENT), None, 2, 0)) == 2
    (folder / "rows.csv").write_text("text,number\nGood.,1\nBad.,0\n")  # whose numbers are texts
    from_csv = task_of(folder, by_number.replace("jsonl", "csv"))
    assert [e.right for e in read_examples(from_csv, None, None, 0)] == [1, 0]


def test_shots_are_other_rows_with_their_answers(folder):
    task = task_of(folder, SENTIMENT + "instruction: Judge.\nseparator: '##'\n")
    examples = read_examples(task, 2, None, 5)
    for example, row in zip(examples, ROWS, strict=True):
        instruction, *shots, own = example.context.split("##")
        assert instruction == "Judge." and len(set(shots)) == 2
        assert own == f"{row['text']}\nThe sentiment of the sentence is:"
        answered = {f"{r['text']}\nThe sentiment of the sentence is: {r['label']}" for r in ROWS if r is not row}
        assert set(shots) < answered
    assert examples == read_examples(task, 2, None, 5)
    assert read_examples(task, 2, 2, 5) == examples[:2]  # fewer questions, the same shots
    assert len({tuple(e.context for e in read_examples(task, 2, None, seed)) for seed in range(12)}) > 1
    with pytest.raises(UserError, match="4 rows of train are too few for 4 shots"):
        read_examples(task, 4, None, 0)


def test_shots_come_from_the_split_that_is_named(folder):
    (folder / "data").mkdir()
    (folder / "data" / "train.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    (folder / "data" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[1:]))
    task = task_of(folder, SENTIMENT.replace("rows.jsonl", "data") + "num_fewshot: 1\n")
    examples = read_examples(task, None, None, 0)
    assert len(examples) == 3
    assert all(e.context.startswith("What a film.\nThe sentiment of the sentence is: positive\n\n") for e in examples)
    assert "What a film" not in read_examples(task, 0, None, 0)[0].context
    for line, expected in (
        ("split: banana", "data has no split 'banana'; use t"),
        ("fewshot_split: trian", "data has no fewshot_split 'trian'; use t"),
    ):
        with pytest.raises(UserError, match=expected):
            read_examples(task_of(folder, SENTIMENT.replace("rows.jsonl", "data") + line), None, None, 0)


class Scripted:
    """In place of the model: log-likelihoods by what is continued."""

    def __init__(self, monkeypatch, table: dict[str, tuple[float, int]]):
        def found(opened, pairs):
            return [Likelihood(*table[continuation.strip()], False) for _, continuation in pairs]

        monkeypatch.setattr(asking, "log_likelihoods", found)


def test_three_accuracies_by_hand(folder, monkeypatch):
    """-6 nats in 2 tokens and 4 bytes, -8 in 4 and 20, -9 in 1 and 2: each measure prefers another one."""
    choices = ["abcd", "b" * 20, "cc"]
    table = {"abcd": (-6.0, 1), "b" * 20: (-8.0, 2), "cc": (-9.0, 9)}
    Scripted(monkeypatch, table)
    (folder / "rows.jsonl").write_text("".join(json.dumps({"c": choices, "a": i}) + "\n" for i in range(3)))
    task = task_of(folder, "dataset: rows.jsonl\nprompt: x\nchoices_from: c\nanswer: a\n")
    outcome = ask(Opened(None, None, 10, 1), task, read_examples(task, None, None, 0))
    right = {name: values.numerators.tolist() for name, values in outcome.values.items()}
    assert right == {
        "accuracy": [True, False, False],  # -6 is the largest sum
        "accuracy_per_token": [False, False, True],  # -9 / 9
        "accuracy_per_byte": [False, True, False],  # -8 / 20
    }
    assert [row["log_likelihoods"] for row in outcome.details] == [[-6.0, -8.0, -9.0]] * 3


def test_of_two_that_are_as_likely_the_first_is_chosen():
    """As `np.argmax` does in lm-evaluation-harness."""
    assert is_best(np.array([-1.0, -2.0]), 0) and not is_best(np.array([-1.0, -2.0]), 1)
    assert is_best(np.array([-2.0, -1.0, -1.0]), 1) and not is_best(np.array([-2.0, -1.0, -1.0]), 2)


def test_minimal_pairs(folder, monkeypatch):
    Scripted(monkeypatch, {"a b": (-1.0, 1), "b a": (-2.0, 1), "c d": (-3.0, 1), "d c": (-3.0, 1)})
    rows = [{"g": "a b", "b": "b a"}, {"g": "b a", "b": "a b"}, {"g": "c d", "b": "d c"}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = task_of(folder, "kind: minimal_pairs\ndataset: rows.jsonl\ngood: '{{ g }}'\nbad: '{{ b }}'\n")
    outcome = ask(Opened(None, None, 10, 1), task, read_examples(task, 3, None, 0))
    assert outcome.values["accuracy"].numerators.tolist() == [True, False, True]  # of equals, the first
    assert list(outcome.values) == ["accuracy"]


# What is written


def test_texts_are_made_alike():
    assert alike("  a \n b ", "", []) == "a b"
    assert alike("so #### 1,234 it is", r"#### (-?[\d.,]+)", [","]) == "1234"
    assert alike("no mark", r"#### (\d+)", []) is None
    assert alike("x42y", r"\d+", []) == "42"
    assert alike("1,234", "(zzz)?", [","]) is None  # it matches, and its group finds nothing
    assert until("one\ntwo;three", [";", "\n"]) == "one" and until("one", ["\n"]) == "one"


def test_generation_counts_exact_matches(folder, tokenizer_directory, monkeypatch):
    """GSM8K's form: the reference is a whole solution, of which the answer after #### counts."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    rows = [{"q": f"q{i}", "a": f"it is\n#### {i},000"} for i in range(3)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = {"q0": "well\n#### 0000\nQ: more #### 7", "q1": "#### 1,001", "q2": "I do not know"}

    def write(model, tokenizer, prompts, settings, until):
        assert settings["max_new_tokens"] == 20 and not settings["do_sample"] and until == ["Q:"]
        texts = [said[tokenizer.decode(ids, skip_special_tokens=True)[-2:]] for ids in prompts]
        return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]

    monkeypatch.setattr(asking, "write", write)
    task = task_of(
        folder,
        "kind: generation\ndataset: rows.jsonl\nprompt: 'Q: {{ q }}'\nanswer: a\nuntil: ['Q:']\n"
        "max_new_tokens: 20\nextract: '#### (-?[0-9.,]+)'\nignore: [',']\n",
    )
    outcome = ask(Opened(None, tokenizer, 200, 2), task, read_examples(task, None, None, 0))
    assert outcome.values["exact_match"].numerators.tolist() == [True, False, False]
    assert [row["answer"] for row in outcome.details] == ["0000", "1001", None]
    assert outcome.details[0]["written"] == "well\n#### 0000\n"


# What a file may say

BAD = {
    "unknown key": (SENTIMENT + "promt: x\n", "unknown key 'promt'.*did you mean prompt"),
    "unknown kind": (SENTIMENT.replace("multiple_choice", "essay"), "kind='essay'.*use one of"),
    "of another kind": (SENTIMENT + "until: [x]\n", "multiple_choice has no use for until"),
    "no answer": (SENTIMENT.replace("answer: label", ""), "answer is missing"),
    "no choices": (SENTIMENT.replace("choices:", "good:").replace("[negative, positive]", "x"), "needs choices or"),
    "booleans": (SENTIMENT.replace("[negative, positive]", "[yes, no]"), "must be list of str.*put it between quotes"),
    "numbers": (SENTIMENT.replace("[negative, positive]", "[1, 2]"), "must be list of str; put it between quotes"),
    "a choice twice": (SENTIMENT.replace("negative,", "positive,"), "choices=.*has one of them twice"),
    "no prompt": (SENTIMENT.replace("prompt:", "instruction:"), "prompt is missing"),
    "no such split": (SENTIMENT + "split: banana\n", "no split 'banana'; use train"),
    "no text to write": (
        "kind: generation\nprompt: x\ndataset: rows.jsonl\nanswer: '[]'\n",
        "answer .* is an empty list",
    ),
    "broken template": (SENTIMENT.replace("{{ text }}", "{{ text"), "prompt '{{ text"),
    "no such column": (SENTIMENT.replace("{{ text }}", "{{ texts }}"), "line 1: prompt: 'texts' is undefined"),
    "no such answer": (SENTIMENT.replace("answer: label", "answer: labels"), "answer 'labels' gives nothing"),
    "wrong answer": (SENTIMENT.replace("answer: label", "answer: text"), "must be one of .*or its number from 0"),
    "one choice": (SENTIMENT.replace("[negative, positive]", "[negative]"), "two texts or more are needed"),
    "no file": (SENTIMENT.replace("rows.jsonl", "nothing.jsonl"), "nothing.jsonl: no such file"),
    "bad expression": (
        "kind: generation\nprompt: x\ndataset: d\nanswer: a\nextract: '('\n",
        "not a regular expression",
    ),
    "out of the sandbox": (SENTIMENT.replace("{{ text }}", "{{ ''.__class__.__mro__ }}"), "prompt: .*unsafe"),
    "unknown rows": (SENTIMENT.replace("rows.jsonl", "python:nothing"), "after python: comes statements"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name, folder):
    text, expected = BAD[name]
    with pytest.raises(UserError, match=expected) as found:
        read_examples(task_of(folder, text), None, None, 0)
    assert str(found.value).startswith("--tasks ") and "\n" not in str(found.value)


def test_unknown_tasks():
    with pytest.raises(UserError, match="did you mean python_statements"):
        open_task("python_statement")
    with pytest.raises(UserError, match=r"no such task; use python_builtins.*or a \.yaml file"):
        open_task("/nowhere.yaml")


# The tasks that come with it


def test_the_shipped_tasks_can_be_asked():
    assert shipped() == ["python_builtins", "python_expressions", "python_statements"]
    for name in shipped():
        task = open_task(name)
        examples = read_examples(task, None, 50, 0)
        assert len(examples) == 50 and examples == read_examples(task, None, 50, 0), name


def test_a_slip_makes_python_of_none():
    rows = [row.values for row in python_tables("python:statements")["test"]()]
    assert len(rows) > 300 and {row["slip"] for row in rows} == {"wrong bracket", "left out", "exchanged"}
    for row in rows:
        ast.parse(row["good"])
        with pytest.raises(SyntaxError):
            ast.parse(row["bad"])


def test_expressions_have_their_values_and_splits_share_none():
    splits = {split: list(TABLES["expressions"][1](split)) for split in ("train", "test")}
    for rows in splits.values():
        assert len(rows) > 100
        assert all(repr(eval(row["expression"], {})) == row["value"] for row in rows)  # our own expressions
    assert not {r["expression"] for r in splits["train"]} & {r["expression"] for r in splits["test"]}


def test_builtins_have_one_right_sentence_among_four():
    rows = TABLES["builtins"][1]("test")
    assert len(rows) > 80
    for row in rows:
        assert len(set(row["choices"])) == 4 and row["choices"].count(row["sentence"]) == 1
    assert {row["owner"] for row in rows} > {"builtins", "str", "list"}
