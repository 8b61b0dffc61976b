"""Tasks on every kind of model that there is here: the classic architectures too, and a tokenizer without padding."""

import json

import pytest
from rhapsode.recipes.baselines.build import build_baseline
from rhapsode.recipes.cli import run_command
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

SIZES = {
    "rnn": {"hidden_size": 16},
    "lstm": {"hidden_size": 16},
    "feedforward": {"hidden_size": 16},
    "ngram": {"order": 3},
}


@pytest.mark.parametrize("name", [*SIZES, "gpt2"])
def test_tasks_and_memorization(name, tokenizer_directory, corpus, tmp_path, capsys, seed):
    """The same figures with batches of one: padding on either side changes nothing."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    if name == "gpt2":
        tokenizer.pad_token = None
        sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 128, "vocab_size": len(tokenizer)}
        model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=tokenizer.eos_token_id))
    else:
        model = build_baseline(name, SIZES[name], tokenizer, 128)
    if name == "ngram":
        model.fit([[tokenizer.bos_token_id, *tokenizer(path.read_text()).input_ids] for path in corpus.iterdir()])
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    flags = ["--model", tmp_path / "model", "--dataset", corpus, "--max_documents", 2, "--max_length", 120, "--json"]
    flags += ["--tasks", "python_statements", "python_expressions", "--num_fewshot", 1, "--max_examples", 4]
    flags += ["--memorization", 3, "--prefix_tokens", 8, "--continuation_tokens", 4]
    found = []
    for batch_size in (1, 4):
        examples = tmp_path / f"{batch_size}.jsonl"
        flags_now = [*flags, "--batch_size", batch_size, "--per_example", examples]
        assert run_command("evaluate", [*map(str, flags_now)]) == 0
        assert len(json.loads(capsys.readouterr().out.splitlines()[-1])["results"]) >= 5
        found.append([json.loads(line) for line in examples.read_text().splitlines()])
    for one, many in zip(*found, strict=True):
        assert one["prompt"] == many["prompt"]
        if "log_likelihoods" in one:
            assert one["log_likelihoods"] == pytest.approx(many["log_likelihoods"], abs=1e-3)
