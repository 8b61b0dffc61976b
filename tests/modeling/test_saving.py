"""What is saved opens again: bit for bit, in a fresh process, with this package and without it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rhapsode import RhapsodeForCausalLM, RhapsodeForSequenceClassification
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

CODE = {"attention", "block", "configuration_rhapsode", "feedforward", "modeling_rhapsode", "norms", "positions"}
CODE |= {"caches", "presets", "validation"}

LOAD = """
import sys
import torch
torch.set_num_threads(1)
{before}
import transformers
for directory, expected in torch.load(sys.argv[1]).items():
    for name, (dtype, result, buffers) in expected.items():
        auto = getattr(transformers, name)
        model = auto.from_pretrained(directory, dtype=dtype, trust_remote_code={trust}).eval()
        assert type(model).__module__.startswith({module!r}), type(model)
        with torch.no_grad():
            assert torch.equal(model(torch.arange(3, 50)[None])[0], result), (directory, name)
        assert model.dtype == dtype
        assert buffers.keys() == dict(model.named_buffers()).keys()
        for key, table in buffers.items():
            assert torch.equal(model.get_buffer(key), table), (directory, key)
{after}
"""
REMOTE_CONFIG = """
config = transformers.AutoConfig.from_pretrained(directory, trust_remote_code=True)
assert type(config).__module__.startswith("transformers_modules")
assert not any(name.split(".")[0] == "rhapsode" for name in sys.modules)
"""


def run(tmp_path: Path, code: str, expected: dict):
    torch.save(expected, tmp_path / "expected.pt")
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(tmp_path / "expected.pt")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def forward(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 50)[None])[0]


def save(model, directory: Path, name: str) -> dict:
    """Save `model`, and return what loading it as `name` must give."""
    model.save_pretrained(directory)
    return {
        str(directory): {
            name: (model.dtype, forward(model), {key: table.clone() for key, table in model.named_buffers()})
        }
    }


@pytest.fixture(scope="module")
def saved_models(tmp_path_factory, configure):
    from rhapsode import RhapsodeConfig
    from rhapsode.modeling.presets import PRESETS

    expected, root = {}, tmp_path_factory.mktemp("saved")
    configs = {name: RhapsodeConfig.from_preset(f"{name}-tiny") for name in PRESETS}
    configs |= {name: configure(name) for name in ("olmo2", "gemma2", "neox", "cohere", "granite", "nope", "yarn")}
    for name, config in configs.items():
        for dtype in (torch.float32, torch.bfloat16):
            model = RhapsodeForCausalLM(config).to(dtype).eval()
            expected |= save(model, root / f"{name}-{dtype}", "AutoModelForCausalLM")
    return root, expected


def test_every_preset_in_a_fresh_process(saved_models):
    root, expected = saved_models
    run(root, LOAD.format(before="import rhapsode", trust=False, module="rhapsode.modeling", after=""), expected)


def test_remote_code_where_this_package_is_not_installed(tmp_path, build, without_rhapsode):
    from rhapsode import RhapsodeModel

    expected = {}
    for name in ("falcon-7b", "gpt2", "rhapsode-10m"):
        model = build(name)
        expected |= save(model, tmp_path / name, "AutoModelForCausalLM")
        hidden = forward(model.model)
        causal = expected[str(tmp_path / name)]["AutoModelForCausalLM"]
        buffers = {key.removeprefix("model."): table for key, table in causal[2].items()}
        expected[str(tmp_path / name)]["AutoModel"] = (torch.float32, hidden, buffers)
        # Many labels: thin products are summed in an order that depends on where the file is mapped.
        scorer = build(name, RhapsodeForSequenceClassification, num_labels=64)
        expected |= save(scorer, tmp_path / f"{name}-score", "AutoModelForSequenceClassification")
        assert isinstance(model.model, RhapsodeModel)
    code = LOAD.format(before=without_rhapsode, trust=True, module="transformers_modules", after=REMOTE_CONFIG)
    run(tmp_path, code, expected)


def test_importing_either_side_first_registers_the_model(tmp_path):
    """Two processes forked from one that has imported nothing."""
    code = """
import os, sys
ORDERS = ("import transformers.models.auto.modeling_auto, rhapsode", "import rhapsode.modeling, transformers")
children = []
for order in ORDERS:
    if (child := os.fork()) == 0:
        exec(order)
        from transformers import AutoConfig, AutoModelForCausalLM
        config = AutoConfig.for_model("rhapsode", **dict(hidden_size=96, num_hidden_layers=1, vocab_size=9))
        model = AutoModelForCausalLM.from_config(config)
        os._exit(0 if type(model).__module__ == "rhapsode.modeling.modeling_rhapsode" else 1)
    children.append(child)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""
    run(tmp_path, code, {})


def test_the_directory_is_self_contained(build, tmp_path):
    for model_class in (RhapsodeForCausalLM, RhapsodeForSequenceClassification):
        build("gpt1", model_class).save_pretrained(tmp_path)
        assert {path.stem for path in tmp_path.glob("*.py")} == CODE
        auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
        assert len(auto_map) == 6
        for auto_class, path in auto_map.items():
            module, name = path.split(".")
            assert f"class {name}(" in (tmp_path / f"{module}.py").read_text(), auto_class


def test_auto_classes_open_it_as_each_other(build, ids, tmp_path):
    model, x = build("palm-8b"), ids(1, 8)
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).model_type == "rhapsode"
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(x).logits, model(x).logits)
    assert torch.equal(AutoModel.from_pretrained(tmp_path)(x)[0], model.model(x)[0])
    scorer = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    assert torch.equal(scorer.model(x)[0], model.model(x)[0])
    assert scorer.score.weight.shape == (1, 64)


def test_tied_weights_are_saved_once_and_tied_again(preset, build, tmp_path):
    from safetensors.torch import load_file

    model = build(preset)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert ("lm_head.weight" in tensors) != model.config.tie_word_embeddings
    loaded = RhapsodeForCausalLM.from_pretrained(tmp_path)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == model.config.tie_word_embeddings
    assert loaded.state_dict().keys() == model.state_dict().keys()


def test_tensor_names_are_the_public_format(configure):
    names = RhapsodeForCausalLM(configure("rhapsode-50m", tie_word_embeddings=False)).state_dict().keys()
    layer = {f"self_attn.{n}_proj" for n in "qkvo"} | {f"self_attn.{n}_norm" for n in "qk"}
    layer |= {f"mlp.{n}_proj" for n in ("gate", "up", "down")} | {"input_layernorm", "post_attention_layernorm"}
    expected = {f"model.layers.{i}.{part}.weight" for i in range(2) for part in layer}
    assert names == expected | {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
