"""`rhapsode evaluate` against perplexity computed by its definition."""

import json
import math
import shutil

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes import evaluate as recipe
from rhapsode.recipes.cli import run_command
from transformers import AutoTokenizer


@pytest.fixture
def model_directory(tokenizer_directory, tmp_path, seed):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    config = RhapsodeConfig.from_preset("rhapsode-10m-tiny", vocab_size=len(tokenizer), initializer_range=0.1)
    RhapsodeForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_equals_the_definition(model_directory, tmp_path, capsys):
    """Two documents that fit in one window: -log2 of the product of all probabilities, over the UTF-8 bytes."""
    texts = ["The quick brown fox — jumps.\n", "def f(x):\n    return x * 10\n"]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"body": text}) + "\n" for text in texts), encoding="utf-8")
    flags = ["--dataset", str(data), "--text_column", "body", "--split", "all", "--json"]
    assert run_command("evaluate", ["--model", str(model_directory), *flags]) == 0
    result = json.loads(capsys.readouterr().out)

    tokenizer = AutoTokenizer.from_pretrained(model_directory)
    model, nats, targets = RhapsodeForCausalLM.from_pretrained(model_directory), 0.0, 0
    for text in texts:
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        with torch.no_grad():
            logs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        nats -= sum(logs[i, ids[i + 1]].item() for i in range(len(ids) - 1))
        targets += len(ids) - 1
    size = sum(len(text.encode()) for text in texts)
    assert (result["documents"], result["tokens"], result["bytes"]) == (2, targets, size)
    assert result["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert result["perplexity"] == pytest.approx(math.exp(nats / targets), rel=1e-5)


def test_window_and_stride_count_every_token_once(model_directory, corpus, capsys):
    """Whatever the window, the same tokens are counted; more context does not change how many."""
    counts = set()
    for flags in (["--max_length", "32", "--stride", "7"], ["--max_length", "64"], []):
        assert (
            run_command("evaluate", ["--model", str(model_directory), "--dataset", str(corpus), *flags, "--json"]) == 0
        )
        result = json.loads(capsys.readouterr().out)
        counts.add((result["tokens"], result["bytes"]))
    assert len(counts) == 1


BOTH = ["--tasks", "python_builtins", "--dataset", "stdlib"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--dataset", "/nowhere.md"], "/nowhere.md: no such file"),
        (["--max_length", "99999"], "longer than the model's"),
        (["--max_length", "8", "--stride", "8"], "leaves no context"),
        (["--split", "test"], "test"),
        (["--tasks", "python_statement"], "did you mean python_statements"),
        (["--per_example", "x.jsonl"], "nothing of that kind is measured; give --tasks"),
        (["--per_document", __file__], "there is such a file already"),
        (["--per_document", "/nowhere/x.jsonl"], "/nowhere/x.jsonl: there is no directory /nowhere"),
        (["--per_document", "x.jsonl", "--per_example", "./x.jsonl", *BOTH], "are both ./x.jsonl; name two files"),
        (["--compare_with", "/nowhere/model"], "--compare_with /nowhere/model: "),
        (["--num_fewshot", "2"], "is for --tasks and --harness"),
        (["--max_examples", "2"], "--max_examples 2 is for --tasks and --harness"),
        (["--num_fewshot", "3", "--tasks", "python_statements"], "no examples before them (python_statements)"),
        (["--memorization", "-1"], "--memorization -1 must be 0 or more"),
        (["--memorization", "3", "--prefix_tokens", "900"], "tokens that the model reads at once"),
    ],
)
def test_bad_input(flags, expected, model_directory, capsys):
    assert run_command("evaluate", ["--model", str(model_directory), *flags]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert expected in error


@pytest.mark.parametrize("fault", ["no model", "short"])
def test_the_other_model_is_looked_at_before_one_is_measured(fault, model_directory, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(recipe, "measure", lambda *_: pytest.fail("something was measured"))
    other, documents = tmp_path / "other", tmp_path / "documents.jsonl"
    expected = "--compare_with {}: tokenizer {}: cannot be opened"
    if fault == "short":
        shutil.copytree(model_directory, other)
        config = RhapsodeConfig.from_pretrained(other)
        config.max_position_embeddings = 16
        config.save_pretrained(other)
        expected = "--max_length 32 is longer than the model's 16 positions ({})"
    flags = ["--max_length", "32", "--compare_with", str(other), "--per_document", str(documents)]
    assert run_command("evaluate", ["--model", str(model_directory), *flags]) == 2
    assert expected.format(other, other) in capsys.readouterr().err.strip().splitlines()[-1]
    assert not documents.exists()


def test_files_are_written_when_all_is_measured(model_directory, corpus, tmp_path, capsys):
    """The other model's weights are found to be missing after the first one was measured: no file is left."""
    other, documents = tmp_path / "other", tmp_path / "documents.jsonl"
    shutil.copytree(model_directory, other)
    (other / "model.safetensors").unlink()
    flags = ["--dataset", corpus, "--split", "all", "--max_documents", 1, "--per_document", documents]
    flags = ["--model", model_directory, *flags, "--compare_with", other]
    assert run_command("evaluate", [*map(str, flags)]) == 2
    assert f"--compare_with {other}: cannot be opened" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not documents.exists()


def test_a_text_of_one_token_has_nothing_to_predict(model_directory, tmp_path, capsys):
    tokenizer = AutoTokenizer.from_pretrained(model_directory)
    tokenizer.bos_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(model_directory)
    (tmp_path / "a.txt").write_text("a")
    flags = ["--model", model_directory, "--dataset", tmp_path / "a.txt", "--split", "all", "--json"]
    assert run_command("evaluate", [*map(str, flags)]) == 2
    assert "nothing to predict" in capsys.readouterr().err.strip().splitlines()[-1]


def evaluate(capsys, *flags) -> dict:
    capsys.readouterr()
    assert run_command("evaluate", [*map(str, flags), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_figures_of_sources_and_documents(model_directory, corpus, tmp_path, capsys):
    """The parts add up to the whole, by dataset, by file and by document."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"x = {i}\n" * (i + 1)}) + "\n" for i in range(9)))
    flags = ["--model", model_directory, "--dataset", data, corpus, "--split", "all", "--max_documents", 12]
    result = evaluate(capsys, *flags, "--per_document", tmp_path / "documents.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "documents.jsonl").read_text().splitlines()]
    assert len(rows) == result["documents"] == 12
    for key in ("tokens", "bytes"):
        assert sum(row[key] for row in rows) == result[key]
    assert sum(row["nats"] for row in rows) == pytest.approx(result["loss"] * result["tokens"])
    whole, *parts = result["results"].values()
    assert [name.strip() for name in result["results"]][1:] == [str(data), str(corpus)]
    assert whole["bits_per_byte"]["value"] == pytest.approx(result["bits_per_byte"])
    own = [row for row in rows if row["source"] == str(data)]
    assert parts[0]["bits_per_byte"]["count"] == len(own) == 9
    bits = sum(row["nats"] for row in own) / math.log(2) / sum(row["bytes"] for row in own)
    assert parts[0]["bits_per_byte"]["value"] == pytest.approx(bits)
    assert parts[0]["bits_per_byte"]["low"] < parts[0]["bits_per_byte"]["high"]
    assert result["seed"] == 0 and {"rhapsode", "torch", "transformers"} <= result["versions"].keys()
    assert result["command"].startswith(f"rhapsode evaluate --model {model_directory} --dataset")
    files = evaluate(capsys, *flags, "--breakdown", "file")["results"]
    assert len(files) == 1 + 4 and f"  {data}" in files  # the rows of a table are one file


def test_a_model_beside_itself_does_not_differ(model_directory, corpus, capsys):
    flags = ["--model", model_directory, "--dataset", corpus, "--split", "all", "--tasks", "python_builtins"]
    result = evaluate(capsys, *flags, "--max_documents", 3, "--max_examples", 4, "--compare_with", model_directory)
    assert set(result["differences"]["python_builtins"]) == {"accuracy", "accuracy_per_token", "accuracy_per_byte"}
    for measures in result["differences"].values():
        for found in measures.values():
            assert found["value"] == pytest.approx(0, abs=1e-6) and found["low"] <= 1e-6 and found["high"] >= -1e-6


def test_one_table(model_directory, corpus, tmp_path, capsys):
    """Text, tasks and memorization below each other, and how to measure them again."""
    flags = ["--model", model_directory, "--dataset", corpus, "--split", "all", "--max_documents", 3]
    flags += ["--tasks", "python_statements", "python_expressions", "--max_examples", 3]
    flags += ["--memorization", 3, "--prefix_tokens", 6, "--continuation_tokens", 4, "--seed", 5]
    flags += ["--per_example", tmp_path / "examples.jsonl"]
    assert run_command("evaluate", [*map(str, flags)]) == 0
    out = capsys.readouterr().out
    size = sum(len(path.read_bytes()) for path in sorted(corpus.iterdir())[:3])
    assert f"3 documents, {size:,} bytes" in out
    for words in ("bits_per_byte", "exact_match", "verbatim", "memorization, held-out text", "seed 5; rhapsode"):
        assert words in out
    assert "--tasks python_statements python_expressions" in out and "3 examples" in out
    rows = [json.loads(line) for line in (tmp_path / "examples.jsonl").read_text().splitlines()]
    assert [row["task"] for row in rows] == ["python_statements"] * 3 + ["python_expressions"] * 3
    assert len(rows[0]["log_likelihoods"]) == 2 and "written" in rows[3]
