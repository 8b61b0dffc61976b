"""`rhapsode convert`, there and back, against the family's own class."""

import sys

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.cli import run_command
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

# Both sides compute in float32, in the same order but for fused or split projections.
LOGITS_TOLERANCE = 1e-6
FAMILIES = {
    "olmo-7b-tiny": "olmo",
    "llama2-7b-tiny": "mistral",
    "openlm-7b-tiny": "stablelm",
    "falcon-7b-tiny": "falcon",
    "gpt2-tiny": "gpt2",
    "gpt1-tiny": "openai-gpt",
    "rhapsode-10m-tiny": "qwen3",
}


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
        (["--from", "LLAMA", "--to", "gguf"], "name the file, as in --to model.gguf"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(flags, expected, llama, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_command("convert", [str(llama) if flag == "LLAMA" else flag for flag in flags]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rhapsode convert:")]
    assert len(lines) == 1
    assert expected in lines[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["llama"]


def ours(directory, preset: str, tokenizer_directory, **overrides) -> str:
    config = RhapsodeConfig.from_preset(preset, vocab_size=512, **overrides)
    RhapsodeForCausalLM(config).save_pretrained(directory)
    AutoTokenizer.from_pretrained(tokenizer_directory).save_pretrained(directory)
    return str(directory)


@pytest.mark.parametrize(("preset", "family"), FAMILIES.items())
def test_designs_as_families(preset, family, tmp_path, tokenizer_directory, seed):
    """The family's own class opens what is written, with our logits."""
    source = ours(tmp_path / "ours", preset, tokenizer_directory)
    flags = ["--from", source, "--to", str(tmp_path / "theirs"), "--to_family", family]
    assert run_command("convert", flags) == 0
    ids = torch.randint(3, 512, (2, 40))
    models = [AutoModelForCausalLM.from_pretrained(d).eval() for d in (source, tmp_path / "theirs")]
    assert models[1].config.model_type == family
    with torch.no_grad():
        mine, theirs = (model(input_ids=ids).logits for model in models)
    assert (mine - theirs).abs().max() < 3 * LOGITS_TOLERANCE * mine.abs().max()


def test_a_design_that_no_family_has(tmp_path, tokenizer_directory, capsys):
    source = ours(tmp_path / "palm", "palm-8b-tiny", tokenizer_directory)
    assert run_command("convert", ["--from", source, "--to", str(tmp_path / "out"), "--to_family", "cohere"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("rhapsode convert: family 'cohere' cannot express ") and "where the family has" in error
    assert not (tmp_path / "out").exists()


def test_gguf(tmp_path, tokenizer_directory, corpus, capsys, seed):
    """A file for llama.cpp, and a note on the tokenizer; `tests/hub/test_gguf.py` reads and runs such files."""
    pytest.importorskip("gguf")
    source = ours(tmp_path / "ours", "rhapsode-10m-tiny", tokenizer_directory)
    flags = ["--from", source, "--to", str(tmp_path / "model.gguf"), "--dataset", str(corpus)]
    assert run_command("convert", flags) == 0
    said = capsys.readouterr()
    assert "model.gguf: gguf, qwen3, " in said.out and "% of the tokens of" in said.err
    assert (tmp_path / "model.gguf").read_bytes()[:4] == b"GGUF"
    palm = ours(tmp_path / "palm", "palm-8b-tiny", tokenizer_directory)
    for bad, expected in (
        (flags, "model.gguf exists"),
        (["--from", palm, "--to", str(tmp_path / "palm.gguf")], "none of llama.cpp's llama, "),
        (["--from", source, "--to", str(tmp_path / "x.gguf"), "--to_family", "gemma"], "convert_hf_to_gguf.py"),
    ):
        assert run_command("convert", bad) == 2
        assert expected in capsys.readouterr().err.strip().splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", "ours", "palm"]


def test_without_the_package_gguf_the_extra_is_named(tmp_path, monkeypatch, capsys):
    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name == "gguf":
                raise ModuleNotFoundError("No module named 'gguf'", name="gguf")

    for name in ("gguf", "rhapsode.hub.gguf", "rhapsode.hub.gguf_vocabulary"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    assert run_command("convert", ["--from", "x", "--to", str(tmp_path / "x.gguf")]) == 2
    assert capsys.readouterr().err == "rhapsode convert: needs gguf; pip install 'rhapsode[gguf]'\n"
