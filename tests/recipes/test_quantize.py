"""`rhapsode quantize`: the weights are those of the definition, the directory opens anywhere, the figures are right."""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch
from rhapsode.recipes.cli import run_command
from safetensors import safe_open
from small_chats import save_model
from transformers import AutoModelForCausalLM

# Not among what the tests install: once it is there, transformers loads it in every process, which takes seconds.
needs_torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
SAME = 1e-5  # float32, of the largest logit
OPEN_ELSEWHERE = """
import sys
import torch
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
with torch.no_grad():
    print(model(input_ids=torch.arange(20, 60)[None]).logits.double().sum().item())
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer_directory) -> str:
    return save_model(tmp_path_factory.mktemp("model"), tokenizer_directory)


def int8_step(w: torch.Tensor) -> torch.Tensor:
    """255 steps from minus to plus the largest of the row."""
    return (w.abs().amax(-1, keepdim=True) / 127.5).expand_as(w)


def int4_step(w: torch.Tensor) -> torch.Tensor:
    """15 steps from minus to plus the largest of the group of 32."""
    groups = w.unflatten(-1, (-1, 32))
    return (groups.abs().amax(-1, keepdim=True) / 7.5).expand_as(groups).flatten(-2)


@needs_torchao
@pytest.mark.parametrize(("weights", "step_of"), [("int8", int8_step), ("int4", int4_step)])
def test_the_weights_are_those_of_the_definition(weights, step_of, model, corpus, tmp_path, capsys, without_rhapsode):
    """Each is a multiple of its step, at most half a step away, and the products are those of such weights."""
    flags = ["--model", model, "--weights", weights, "--dataset", str(corpus), "--max_documents", "2", "--json"]
    assert run_command("quantize", [*flags, "--split", "all", "--output_dir", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "out" / "results.json").read_text())
    by_hand, matrices = AutoModelForCausalLM.from_pretrained(model).eval(), 0
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    for name, module in by_hand.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            w, step = module.weight.data, step_of(module.weight.data)
            module.weight.data = opened.get_submodule(name).weight.data.dequantize()
            steps = module.weight.data / step
            assert (steps - steps.round()).abs().max() < 1e-3 and steps.abs().max() < 127.5 + 1
            assert ((w - module.weight.data).abs() <= 0.5001 * step).all()
            matrices += w.numel()
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        wanted, found = by_hand(input_ids=ids).logits, opened(input_ids=ids).logits
    assert (wanted - found).abs().max() < SAME * wanted.abs().max()
    assert result["quantized_parameters"] == pytest.approx(matrices / sum(p.numel() for p in by_hand.parameters()))
    # In the file: a byte for each, and scales; nothing but safetensors.
    assert not [path.name for path in (tmp_path / "out").iterdir() if path.suffix in (".bin", ".pt", ".pkl")]
    file = tmp_path / "out" / "model.safetensors"
    with safe_open(file, "pt") as tensors:
        stored = sum(tensors.get_tensor(k).nbytes for k in tensors.keys())  # noqa: SIM118
    assert result["after"]["mebibytes"] == pytest.approx(stored / 2**20, rel=1e-3)
    assert result["after"]["mebibytes"] < result["before"]["mebibytes"]
    done = subprocess.run(
        [sys.executable, "-c", without_rhapsode + OPEN_ELSEWHERE, str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) == pytest.approx(found.double().sum().item(), rel=1e-5)


@needs_torchao
def test_the_figures_are_those_of_evaluate(model, corpus, tmp_path, capsys):
    text = ["--dataset", str(corpus), "--max_documents", "2", "--json"]
    assert run_command("quantize", ["--model", model, *text, "--output_dir", str(tmp_path / "out")]) == 0
    quantized = json.loads(capsys.readouterr().out)
    for source, row in ((model, "before"), (str(tmp_path / "out"), "after")):
        assert run_command("evaluate", ["--model", source, *text]) == 0
        figures = json.loads(capsys.readouterr().out)
        assert quantized[row]["bits_per_byte"] == pytest.approx(figures["bits_per_byte"], rel=1e-4)


@needs_torchao
def test_mistakes_are_one_line_and_write_nothing(model, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    out = ["--output_dir", str(tmp_path / "out")]
    for flags, expected in (
        ([], "--output_dir is missing"),
        (["--output_dir", str(tmp_path / "full")], "is not empty"),
        ([*out, "--model", str(tmp_path / "none")], "cannot be opened"),
        ([*out, "--weights", "int4", "--group_size", "48"], "--group_size 48 does not divide the 64 columns of"),
        ([*out, "--weights", "int2"], "int2"),
        ([*out, "--max_length", "4096"], "--max_length 4096 is longer than the model's 128 positions"),
    ):
        capsys.readouterr()
        assert run_command("quantize", ["--model", model, *flags]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("rhapsode quantize: ") and expected in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


@pytest.mark.skipif(importlib.util.find_spec("torchao") is not None, reason="torchao is installed")
def test_without_torchao_the_extra_is_named(capsys):
    assert run_command("quantize", ["--output_dir", "x"]) == 2
    assert capsys.readouterr().err == "rhapsode quantize: needs torchao; pip install 'rhapsode[quantize]'\n"
