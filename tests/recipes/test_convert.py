"""`rhapsode convert`, there and back, against the family's own class."""

import pytest
import torch
from rhapsode.recipes.cli import run_command
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

# Both sides compute in float32, in the same order but for fused or split projections.
LOGITS_TOLERANCE = 1e-6


@pytest.fixture
def llama(tmp_path, tokenizer_directory, seed):
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=512, num_key_value_heads=2, **sizes))
    model.save_pretrained(tmp_path / "llama")
    AutoTokenizer.from_pretrained(tokenizer_directory).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def test_there_and_back(llama, tmp_path, capsys):
    """The logits stay, the tensors come back bit for bit, and the tokenizer comes along."""
    assert run_command("convert", ["--from", str(llama), "--to", str(tmp_path / "ours")]) == 0
    back = ["--from", str(tmp_path / "ours"), "--to", str(tmp_path / "back"), "--to_family", "llama"]
    assert run_command("convert", back) == 0
    ids = torch.randint(0, 512, (2, 100))
    theirs, ours = (AutoModelForCausalLM.from_pretrained(d)(input_ids=ids).logits for d in (llama, tmp_path / "ours"))
    assert (theirs - ours).abs().max() < LOGITS_TOLERANCE * theirs.abs().max()
    before, after = (load_file(d / "model.safetensors") for d in (llama, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "back")) == 512


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--to", "x"], "--from is missing"),
        (["--from", "/nowhere", "--to", "x"], "/nowhere"),
        (["--from", "LLAMA", "--to", "x", "--to_family", "lama"], "did you mean 'llama'"),
        (["--from", "LLAMA", "--to", "x", "--to_family", "gpt2"], "cannot express"),
        (["--from", "LLAMA", "--to", "LLAMA"], "not empty"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(flags, expected, llama, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_command("convert", [str(llama) if flag == "LLAMA" else flag for flag in flags]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rhapsode convert:")]
    assert len(lines) == 1
    assert expected in lines[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["llama"]
