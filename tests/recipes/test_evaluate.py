"""`rhapsode evaluate` against perplexity computed by its definition."""

import json
import math

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
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


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--dataset", "/nowhere.md"], "/nowhere.md: no such file"),
        (["--max_length", "99999"], "longer than the model's"),
        (["--max_length", "8", "--stride", "8"], "leaves no context"),
        (["--split", "test"], "test"),
    ],
)
def test_bad_input(flags, expected, model_directory, capsys):
    assert run_command("evaluate", ["--model", str(model_directory), *flags]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert expected in error
