"""A self-contained repository: what is in it, and that it opens where Rhapsode cannot be imported."""

import json
import subprocess
import sys

import pytest
import torch
import yaml
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM, export
from rhapsode.tokenization.training import train_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

OPEN_ELSEWHERE = """
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers import AutoTokenizer, pipeline

torch.set_num_threads(1)
ids, found = load_file("ids.safetensors")["ids"], {}
for folder in ("float32", "bfloat16"):
    trust = {"trust_remote_code": True}
    assert AutoConfig.from_pretrained(folder, **trust).model_type == "rhapsode"
    model = AutoModelForCausalLM.from_pretrained(folder, **trust).eval()
    assert str(model.dtype) == "torch." + folder
    with torch.no_grad():
        found[folder] = model(input_ids=ids).logits
        found[folder + "-hidden"] = AutoModel.from_pretrained(folder, **trust).eval()(input_ids=ids).last_hidden_state
    AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, **trust)
tokenizer = AutoTokenizer.from_pretrained("float32", **trust)
print(pipeline("text-generation", "float32", **trust)("def f", max_new_tokens=5, do_sample=False)[0]["generated_text"])
assert tokenizer.decode(tokenizer("a b\\n  c", add_special_tokens=False).input_ids) == "a b\\n  c"
assert "rhapsode" not in sys.modules
save_file(found, "logits.safetensors")
"""


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["def f(x):\n    return x\n" * 20], vocab_size=320, show_progress=False)


def make_model(tokenizer) -> RhapsodeForCausalLM:
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return RhapsodeForCausalLM(
        RhapsodeConfig.from_preset("rhapsode-10m-tiny", vocab_size=len(tokenizer), **ends)
    ).eval()


def test_opens_where_rhapsode_is_not_installed(tokenizer, without_rhapsode, tmp_path, seed):
    """Logits are bit-equal to ours, in float32 and in bfloat16, through each Auto class and `pipeline`."""
    model, ids = make_model(tokenizer), torch.randint(3, len(tokenizer), (2, 90))
    export(model, tmp_path / "float32", tokenizer)
    export(tmp_path / "float32", tmp_path / "bfloat16", dtype="bfloat16")
    save_file({"ids": ids}, tmp_path / "ids.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", without_rhapsode + OPEN_ELSEWHERE], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("def f")
    found = load_file(tmp_path / "logits.safetensors")
    for dtype in ("float32", "bfloat16"):
        ours = RhapsodeForCausalLM.from_pretrained(tmp_path / dtype).eval()
        with torch.no_grad():
            assert torch.equal(ours(input_ids=ids).logits, found[dtype]), dtype
            assert torch.equal(ours.model(input_ids=ids).last_hidden_state, found[f"{dtype}-hidden"]), dtype


def test_contents(tokenizer, tmp_path, seed):
    """Weights, settings, code, tokenizer and a card whose metadata the Hub can read."""
    folder = export(make_model(tokenizer), tmp_path / "out", tokenizer)
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert set(auto_map) == {
        *("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification"),
        *("AutoModelForTokenClassification", "AutoModelForQuestionAnswering"),
    }
    for reference in auto_map.values():
        assert (folder / f"{reference.split('.')[0]}.py").is_file()
    _, metadata, body = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(metadata)["library_name"] == "transformers"
    assert "trust_remote_code=True" in body
    stops = [
        json.loads((folder / name).read_text())["eos_token_id"] for name in ("config.json", "generation_config.json")
    ]
    assert stops == [tokenizer.eos_token_id] * 2
    assert AutoTokenizer.from_pretrained(folder).eos_token_id == tokenizer.eos_token_id


def test_refusals_leave_nothing(tokenizer, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        export(make_model(tokenizer), tmp_path / "full")
    with pytest.raises(ValueError, match="nowhere"):
        export(tmp_path / "nowhere", tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]
