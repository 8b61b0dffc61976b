"""Files of prompts: against one prompt at a time, and going on after a stop."""

import json

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.cli import run_command
from rhapsode.recipes.generation.writing import end_tokens, write
from rhapsode.tokenization import encode_conversation, token_ids
from rhapsode.tokenization.encoding import encode_prompt
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

PROMPTS = ["for i in", "x", "def f(x):\\n    return", "import os", "class A", "while True and not"]


@pytest.fixture(params=["rhapsode", "llama"])
def model_directory(request, tokenizer_directory, tmp_path, seed):
    """In float64, so that padding does not change which token is the likeliest."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"vocab_size": len(tokenizer), "max_position_embeddings": 128, "initializer_range": 0.3}
    ours = request.param == "rhapsode"
    model = (RhapsodeForCausalLM if ours else LlamaForCausalLM)(
        (RhapsodeConfig if ours else LlamaConfig)(**sizes, **token_ids(tokenizer))
    )
    model.double().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def generate(*flags) -> int:
    return run_command("generate", [*map(str, flags)])


def opened(directory):
    return (cls.from_pretrained(directory) for cls in (AutoModelForCausalLM, AutoTokenizer))


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_is_its_prompts_one_by_one(model_directory, tmp_path, capsys):
    """Batched with padding to the left, and with the model's own probabilities of what it wrote."""
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    flags = ["--model", model_directory, "--prompts", tmp_path / "prompts.txt", "--output", tmp_path / "out.jsonl"]
    flags += ["--temperature", 0, "--max_new_tokens", 6, "--batch_size", 4, "--probabilities"]
    assert generate(*flags) == 0
    rows = rows_of(tmp_path / "out.jsonl")
    assert [row["prompt"] for row in rows] == PROMPTS
    model, tokenizer = opened(model_directory)
    for row in rows:
        ids, written = encode_prompt(tokenizer, row["prompt"]), [one["id"] for one in row["probabilities"][0]]
        for i, (token, one) in enumerate(zip(written, row["probabilities"][0], strict=True)):
            likely = model(input_ids=torch.tensor([ids + written[:i]]), use_cache=False).logits[0, -1].softmax(-1)
            assert likely[token].item() == pytest.approx(
                likely.max().item(), rel=1e-4
            )  # the likeliest, or tied with it
            assert one["probability"] == pytest.approx(likely[token].item(), rel=1e-3)
        assert len(written) == 6 or written[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in written[:-1]
        assert row["continuations"] == [tokenizer.decode(written, skip_special_tokens=True)]
        assert row["tokens"] == [len(written)]
    # The same on the command line, one prompt.
    capsys.readouterr()
    assert generate("x", "--model", model_directory, *flags[6:10], "--json", "--probabilities") == 0
    result = json.loads(capsys.readouterr().out)
    alone, among = (row["probabilities"][0] for row in (result, rows[1]))
    assert alone[0]["probability"] == pytest.approx(among[0]["probability"], rel=1e-3)
    assert result["continuations"] == [tokenizer.decode([one["id"] for one in alone], skip_special_tokens=True)]


def test_a_stopped_run_goes_on_to_the_same_bytes(model_directory, tmp_path, capsys):
    """Drawn with a seed, stopped in the middle of a line; other options or prompts are refused."""
    (tmp_path / "prompts.jsonl").write_text(
        "".join(json.dumps({"id": i, "q": p}) + "\n" for i, p in enumerate(PROMPTS))
    )
    out = tmp_path / "out.jsonl"
    flags = ["--model", model_directory, "--prompts", tmp_path / "prompts.jsonl", "--prompt_column", "q"]
    flags += ["--output", out, "--temperature", 1.5, "--seed", 7, "--max_new_tokens", 5, "--batch_size", 2]
    flags += ["--num_return_sequences", 2]
    assert generate(*flags) == 0
    whole = out.read_bytes()
    assert [row["id"] for row in rows_of(out)] == list(range(6)) and len(rows_of(out)[0]["continuations"]) == 2
    lines = whole.splitlines(keepends=True)
    for kept in (b"".join(lines[:3]) + lines[3][:9], b"", whole):
        out.write_bytes(kept)
        assert generate(*flags, "--resume") == 0
        assert out.read_bytes() == whole
    capsys.readouterr()
    assert generate(*flags) == 2 and "there is such a file" in capsys.readouterr().err
    assert generate(*flags, "--resume", "--seed", 8) == 2 and "--resume with seed=8" in capsys.readouterr().err
    (tmp_path / "prompts.jsonl").write_text('{"q": "other"}\n' * 6)
    assert generate(*flags, "--resume") == 2 and "has other prompts than" in capsys.readouterr().err


def test_messages_are_rendered_by_the_chat_template(model_directory, tmp_path):
    messages = [{"role": "user", "content": "hello"}]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"prompt": messages}) + "\n")
    flags = ["--model", model_directory, "--prompts", tmp_path / "chats.jsonl", "--output", tmp_path / "out.jsonl"]
    assert generate(*flags, "--temperature", 0, "--max_new_tokens", 4) == 0
    model, tokenizer = opened(model_directory)
    ids = encode_conversation(tokenizer, messages, add_generation_prompt=True)["input_ids"]
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    (new,) = write(model, tokenizer, [ids], settings)
    assert rows_of(tmp_path / "out.jsonl")[0]["continuations"] == [tokenizer.decode(new, skip_special_tokens=True)]


def test_writing_ends_at_a_text(model_directory):
    """Each row where its own text is; what other rows write is not touched."""
    model, tokenizer = opened(model_directory)
    prompts = [encode_prompt(tokenizer, prompt) for prompt in PROMPTS]
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    free = write(model, tokenizer, prompts, settings)
    ends = end_tokens(model, tokenizer)
    words = (tokenizer.decode([token]) for ids in free for token in ids[3:] if token not in ends)
    end = next((word for word in words if word and "\ufffd" not in word), "never said")
    stopped = write(model, tokenizer, prompts, settings, until=[end])
    for long, short in zip(free, stopped, strict=True):
        assert long[: len(short)] == short
        first = next((i for i in range(1, len(long) + 1) if end in tokenizer.decode(long[:i])), len(long))
        assert len(short) <= first
        assert len(short) == len(long) or end in tokenizer.decode(short)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--prompts", "p.txt"], "belong together; give both"),
        (["x", "--prompts", "p.txt", "--output", "o.jsonl"], "give one of them"),
        (["--prompts", "p.txt", "--output", "o.txt"], "--output o.txt must be a .jsonl file"),
        (["--resume"], "--resume goes on with --prompts"),
        (["--batch_size", "0"], "--batch_size 0 must be 1 or more"),
    ],
)
def test_bad_flags(flags, expected, capsys):
    assert generate(*flags) == 2
    assert expected in capsys.readouterr().err


BAD = {
    "p.jsonl": ('{"text": "x"}\n', "p.jsonl, line 1: no text or messages in 'prompt'; it has text"),
    "q.jsonl": ("[1]\n", "q.jsonl, line 1: no text or messages in 'prompt'; it has list"),
    "r.jsonl": ("{\n", "r.jsonl, line 1 is not JSON"),
    "s.txt": ("\n\n", "holds no prompt"),
    "t.txt": ("word " * 200, "the model's 128 positions"),
    "u.jsonl": ('{"prompt": [{"role": "pirate", "content": "x"}]}\n', "u.jsonl, line 1"),
}


def test_bad_files(model_directory, tmp_path, capsys):
    for name, (text, expected) in BAD.items():
        (tmp_path / name).write_text(text)
        flags = ["--model", model_directory, "--prompts", tmp_path / name, "--output", tmp_path / "o.jsonl"]
        assert generate(*flags) == 2, name
        assert expected in capsys.readouterr().err.splitlines()[-1]
        assert not (tmp_path / "o.jsonl").exists()
