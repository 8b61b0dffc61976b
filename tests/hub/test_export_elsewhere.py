"""Exports in a fresh process where Rhapsode cannot be imported: every preset, every Auto class, bit for bit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rhapsode import (
    RhapsodeConfig,
    RhapsodeForCausalLM,
    RhapsodeForQuestionAnswering,
    RhapsodeForSequenceClassification,
    RhapsodeForTokenClassification,
    export,
)
from rhapsode.modeling.presets import PRESETS
from rhapsode.tokenization.training import train_tokenizer
from safetensors.torch import load_file, save_file
from transformers.dynamic_module_utils import get_imports

HEADS = {
    "SequenceClassification": RhapsodeForSequenceClassification,
    "TokenClassification": RhapsodeForTokenClassification,
    "QuestionAnswering": RhapsodeForQuestionAnswering,
}
# The others are like one of these once they are tiny (tests/modeling/conftest.py).
DISTINCT = ("olmo-7b", "llama2-7b", "openlm-7b", "falcon-7b", "palm-8b", "gpt2", "gpt1", "vaswani-base")
DISTINCT += ("rhapsode-10m", "rhapsode-50m")
DTYPES = ("float32", "bfloat16")
DECLARED = {"torch", "transformers", "huggingface_hub"}  # what a machine needs that opens an export

BEGIN = """
import torch
import transformers
from pathlib import Path
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers import AutoTokenizer, pipeline

torch.set_num_threads(1)
trust = {"trust_remote_code": True}
ids, found = load_file("ids.safetensors")["ids"], {}

@torch.no_grad()
def outputs(model):
    return model.eval()(input_ids=ids)[0].clone()
"""
OPEN = """
for folder in sorted(Path("exports").glob("*/mine")):
    key = folder.parent.name
    config = AutoConfig.from_pretrained(folder, **trust)
    assert config.model_type == "rhapsode" and type(config).__module__.startswith("transformers_modules.")
    if config.architectures == ["RhapsodeForCausalLM"]:
        model = AutoModelForCausalLM.from_pretrained(folder, **trust)
        assert str(model.dtype).removeprefix("torch.") == key.rpartition("-")[2]
        found[key] = outputs(model)
        found[key + "/hidden"] = outputs(AutoModel.from_pretrained(folder, **trust))
        scorer = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, **trust)
        found[key + "/scorer"] = outputs(scorer.model)
    else:
        auto = config.architectures[0].replace("RhapsodeFor", "AutoModelFor")
        found[key] = outputs(getattr(transformers, auto).from_pretrained(folder, **trust))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer("a b\\n  c", add_special_tokens=False).input_ids) == "a b\\n  c"
for folder in ("rhapsode-10m-float32", "gpt2-bfloat16"):
    write = pipeline("text-generation", str(Path("exports", folder, "mine")), **trust)
    assert write("def f", max_new_tokens=5, do_sample=False)[0]["generated_text"].startswith("def f")
classify = pipeline("text-classification", "exports/SequenceClassification-float32/mine", **trust)
assert classify("def f")[0]["label"].startswith("LABEL_")
"""
END = """
assert not any(name.split(".")[0] in ("rhapsode", "trl") for name in sys.modules)
save_file(found, "found.safetensors")
"""
TWO_REVISIONS = """
kinds = set()
for key, folder in (("a", "a/mine"), ("b", "b/mine"), ("a again", "a/mine"), ("b again", "b/mine")):
    model = AutoModelForCausalLM.from_pretrained(folder, **trust)
    kinds.add(type(model))
    found[key] = outputs(model)
assert len(kinds) == 2
"""


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["def f(x):\n    return x\n" * 20], vocab_size=320, show_progress=False)


@pytest.fixture
def elsewhere(without_rhapsode, tmp_path, seed):
    """Runs a program in a directory with `ids.safetensors`, and gives back what it found."""
    save_file({"ids": torch.randint(3, 280, (2, 60))}, tmp_path / "ids.safetensors")

    def run(code: str) -> dict:
        environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", without_rhapsode + BEGIN + code + END]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        return load_file(tmp_path / "found.safetensors")

    return run


@torch.no_grad()
def outputs(model, directory: Path) -> torch.Tensor:
    return model.eval()(input_ids=load_file(directory / "ids.safetensors")["ids"])[0]


def configure(name: str, tokenizer, **settings) -> RhapsodeConfig:
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return RhapsodeConfig.from_preset(f"{name}-tiny", vocab_size=len(tokenizer), **ends, **settings)


SOME = {name: DTYPES if name in ("gpt2", "rhapsode-10m") else DTYPES[:1] for name in DISTINCT}
ALL = pytest.param(dict.fromkeys(PRESETS, DTYPES), marks=pytest.mark.slow)


@pytest.mark.parametrize("presets", [SOME, ALL], ids=["some", "all"])
def test_every_preset_and_every_head(presets, elsewhere, tokenizer, tmp_path):
    """And two exports of different code in the same process: each keeps its own."""
    expected = {}
    for name, dtypes in presets.items():
        model = RhapsodeForCausalLM(configure(name, tokenizer))
        for dtype in dtypes:
            key = f"{name}-{dtype}"
            folder = export(model, tmp_path / "exports" / key / "mine", tokenizer, dtype=dtype)
            ours = RhapsodeForCausalLM.from_pretrained(folder)
            expected[key] = outputs(ours, tmp_path)
            expected[f"{key}/hidden"] = expected[f"{key}/scorer"] = outputs(ours.model, tmp_path)
    for head, model_class in HEADS.items():
        # Many labels: thin products are summed in an order that depends on where the file is mapped.
        labels = {} if head == "QuestionAnswering" else {"num_labels": 64}
        model = model_class(configure("rhapsode-10m", tokenizer, **labels))
        for dtype in DTYPES:
            key = f"{head}-{dtype}"
            folder = export(model, tmp_path / "exports" / key / "mine", tokenizer, dtype=dtype)
            expected[key] = outputs(model_class.from_pretrained(folder), tmp_path)
    logits = export_two_revisions(tokenizer, tmp_path)
    expected |= {key: logits * (2 if key.startswith("b") else 1) for key in ("a", "b", "a again", "b again")}
    found = elsewhere(OPEN + TWO_REVISIONS)
    assert found.keys() == expected.keys() and len(found) > 2 * len(presets) + 10
    for key, tensor in expected.items():
        if key.startswith("QuestionAnswering"):  # one output a token: the thinnest product of all
            torch.testing.assert_close(found[key], tensor)
        else:
            assert torch.equal(found[key], tensor), key


def export_two_revisions(tokenizer, directory: Path) -> torch.Tensor:
    """a/mine and b/mine, whose model code differs and nothing else: transformers names modules after the last part."""
    model = RhapsodeForCausalLM(configure("rhapsode-10m", tokenizer))
    for name in ("a", "b"):
        export(model, directory / name / "mine", tokenizer)
    code = directory / "b" / "mine" / "modeling_rhapsode.py"
    code.write_text(code.read_text().replace("self.scale_logits(self.lm_head(", "2 * self.scale_logits(self.lm_head("))
    return outputs(model, directory)


def test_only_declared_dependencies_are_imported(tokenizer, tmp_path, seed):
    """By their text, since what transformers itself happens to import depends on the machine."""
    folder = export(RhapsodeForCausalLM(configure("gpt2", tokenizer)), tmp_path / "out", tokenizer)
    imported = {name for path in folder.glob("*.py") for name in get_imports(path)}
    assert imported - set(sys.stdlib_module_names) == DECLARED
