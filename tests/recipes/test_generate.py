"""Generation from the command line: against transformers' own `generate` and the definition of each setting."""

import json

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.cli import run_command
from rhapsode.recipes.generation import compiled
from rhapsode.tokenization.encoding import encode_prompt
from small_chats import save_scorer
from transformers import AutoTokenizer


@pytest.fixture
def model_directory(tokenizer_directory, tmp_path, seed):
    """A random model that is sure of itself, so that draws differ little between kernels, with its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    config = RhapsodeConfig.from_preset("rhapsode-10m-tiny", vocab_size=len(tokenizer), initializer_range=0.3)
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    RhapsodeForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def generate(capsys, directory, *flags):
    assert run_command("generate", ["for i in", "--model", str(directory), *flags]) == 0
    return capsys.readouterr().out


def test_greedy_equals_transformers(model_directory, capsys):
    """Temperature 0 writes the likeliest token each time; streaming and JSON write the same text."""
    tokenizer = AutoTokenizer.from_pretrained(model_directory)
    ids = torch.tensor([encode_prompt(tokenizer, "for i in")])
    model = RhapsodeForCausalLM.from_pretrained(model_directory)
    for _ in range(12):  # no cache, no `generate`: the definition
        token = model(input_ids=ids).logits[0, -1].argmax()
        ids = torch.cat([ids, token.view(1, 1)], dim=1)
        if token == tokenizer.eos_token_id:
            break
    expected = tokenizer.decode(ids[0], skip_special_tokens=True)
    flags = ("--temperature", "0", "--max_new_tokens", "12")
    assert generate(capsys, model_directory, *flags).rstrip("\n") == expected.rstrip("\n")
    result = json.loads(generate(capsys, model_directory, *flags, "--json"))
    assert result["prompt"] + result["continuations"][0] == expected


def test_settings_that_leave_one_choice_are_greedy(model_directory, capsys):
    greedy = generate(capsys, model_directory, "--temperature", "0", "--no-stream")
    for flags in (("--top_k", "1"), ("--top_p", "1e-9"), ("--min_p", "1"), ("--temperature", "1e-4")):
        assert generate(capsys, model_directory, *flags, "--no-stream") == greedy, flags


def test_seed(model_directory, capsys):
    flags = ("--temperature", "2", "--json", "--num_return_sequences", "3")
    draws = [json.loads(generate(capsys, model_directory, *flags, "--seed", s))["continuations"] for s in "112"]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) > 1


def test_repetition_penalty(model_directory, capsys):
    """Keskar et al. 2019: the scores of tokens that were there are divided by the penalty, negative ones multiplied."""
    penalty, tokenizer = 1.7, AutoTokenizer.from_pretrained(model_directory)
    model = RhapsodeForCausalLM.from_pretrained(model_directory)
    ids = encode_prompt(tokenizer, "for i in")
    start = len(ids)
    for _ in range(20):
        scores = model(input_ids=torch.tensor([ids])).logits[0, -1]
        seen = torch.tensor(sorted(set(ids)))
        scores[seen] = torch.where(scores[seen] > 0, scores[seen] / penalty, scores[seen] * penalty)
        ids.append(scores.argmax().item())
        if ids[-1] == tokenizer.eos_token_id:
            break
    flags = ("--temperature", "0", "--repetition_penalty", str(penalty), "--max_new_tokens", "20", "--json")
    text = json.loads(generate(capsys, model_directory, *flags))["continuations"][0]
    assert text == tokenizer.decode(ids[start:], skip_special_tokens=True)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model", "/nowhere"], "/nowhere"),
        (["--temperature", "-1"], "--temperature -1.0 must be 0 or more"),
        (["--top_p", "1.5"], "from 0 to 1"),
        (["--max_new_tokens", "0"], "must be 1 or more"),
        (["--tempurature", "1"], "did you mean --temperature"),
    ],
)
def test_bad_input(flags, expected, capsys):
    assert run_command("generate", ["x", *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert expected in error
    assert "\n" not in error


@pytest.mark.parametrize(
    "flags",
    [
        *(["--temperature", value] for value in ("nan", "inf", "-1")),
        *(["--seed", value] for value in ("-1", str(2**32))),
        *(["--repetition_penalty", value] for value in ("nan", "0", "inf")),
        ["--top_p", "nan"],
    ],
    ids=" ".join,
)
def test_a_number_that_is_none_is_refused(flags, capsys):
    assert run_command("generate", ["x", *flags]) == 2
    error = capsys.readouterr().err
    assert flags[0] in error and error.count("\n") == 1


def test_a_classifier_continues_nothing(tokenizer_directory, tmp_path, capsys):
    source = save_scorer(tmp_path / "scorer", tokenizer_directory)
    assert run_command("generate", ["x", "--model", source]) == 2
    assert "RhapsodeForSequenceClassification's, which predicts no tokens" in capsys.readouterr().err


def test_damaged_weights_are_one_line(model_directory, capsys):
    weights = model_directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert run_command("generate", ["x", "--model", str(model_directory)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"rhapsode generate: --model {model_directory}: cannot be opened (")


def test_the_compiled_step_streams_what_it_writes(model_directory, monkeypatch, capsys):
    monkeypatch.setattr(compiled, "_compiled_step", lambda: compiled._step)
    flags = ["--max_new_tokens", "12", "--seed", "3"]
    plain, quick = (generate(capsys, model_directory, *flags, *extra) for extra in ([], ["--torch_compile"]))
    assert quick == plain != "for i in"


def test_the_compiled_step_writes_the_same(model_directory, tmp_path, monkeypatch, capsys):
    """Its loop; what the compiler makes of a step is looked at in test_compiled_decoding.py."""
    monkeypatch.setattr(compiled, "_compiled_step", lambda: compiled._step)
    (tmp_path / "prompts.txt").write_text("for i in\nimport\nwhile True:\n")
    texts = []
    for name, extra in (("plain", []), ("quick", ["--torch_compile"])):
        text = json.loads(generate(capsys, model_directory, "--max_new_tokens", "12", "--seed", "3", "--json", *extra))
        output = tmp_path / f"{name}.jsonl"
        flags = ["--prompts", str(tmp_path / "prompts.txt"), "--output", str(output), "--max_new_tokens", "9"]
        assert run_command("generate", [*flags, "--model", str(model_directory), "--seed", "3", *extra]) == 0
        capsys.readouterr()
        texts.append((text["continuations"], output.read_text()))
    assert texts[0] == texts[1]
