"""The page about a text: every figure against the model's own, every drawing against the modules, every text escaped.

In a browser: see test_inspect_page.py.
"""

import base64
import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.modeling.caches import CACHE
from rhapsode.modeling.positions import apply_rotary, rotate_half_split
from rhapsode.modeling.presets import TINY, presets
from rhapsode.recipes.cli import run_command
from rhapsode.recipes.inspect import inspect_preset
from rhapsode.recipes.inspection.blueprint import blueprint, cache
from rhapsode.recipes.inspection.page import render
from rhapsode.recipes.inspection.reading import read_text
from rhapsode.recipes.inspection.rotation import bound, equal_vectors, rotation
from rhapsode.recipes.options.base import UserError
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

STEP = 0.5 / 255 + 1e-6  # attention is kept in steps of 1/255
SWITCHES = {"logit_scale": 0.5, "final_logit_softcapping": 5.0, "norm_type": "layer_norm"}


@pytest.fixture(scope="session")
def tokenizer(tokenizer_directory):
    return AutoTokenizer.from_pretrained(tokenizer_directory)


@pytest.fixture
def ids(tokenizer) -> list[int]:
    return tokenizer("def read(path):\n    return open(path).read() # é")["input_ids"]


def small(tokenizer, **switches) -> RhapsodeForCausalLM:
    config = RhapsodeConfig.from_preset(
        "rhapsode-10m-tiny", vocab_size=len(tokenizer), initializer_range=0.2, **switches
    )
    config._attn_implementation = "eager"
    return RhapsodeForCausalLM(config).eval()


def others(vocab_size: int) -> dict:
    sizes = {"vocab_size": vocab_size, "attn_implementation": "eager"}
    llama = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return {
        "llama": LlamaForCausalLM(LlamaConfig(**llama, num_key_value_heads=2, **sizes)).eval(),
        "opt": OPTForCausalLM(
            OPTConfig(hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=2, **sizes)
        ).eval(),
        "mixtral": MixtralForCausalLM(
            MixtralConfig(**llama, num_local_experts=2, num_key_value_heads=2, **sizes)
        ).eval(),
        "gpt2": GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **sizes)).eval(),
    }


# Reading


@pytest.mark.parametrize("family", ["rhapsode", "llama", "gpt2", "opt", "mixtral"])
def test_surprise_is_the_loss_and_the_lens_ends_with_the_prediction(seed, tokenizer, ids, family):
    torch.manual_seed(seed)
    model = small(tokenizer, **SWITCHES) if family == "rhapsode" else others(len(tokenizer))[family]
    found = read_text(model, tokenizer, ids, top=5)
    with torch.no_grad():
        out = model(torch.tensor([ids]), labels=torch.tensor([ids]))
    p = out.logits[0].softmax(-1)
    bits = [row["bits"] for row in found["tokens"][1:]]
    assert sum(bits) / len(bits) == pytest.approx(float(out.loss) / math.log(2), rel=1e-5)
    for t, row in enumerate(found["tokens"]):
        assert [q for _, q in row["next"]] == pytest.approx(p[t].topk(5).values.tolist(), rel=1e-4)
        assert row["entropy"] == pytest.approx(float(torch.special.entr(p[t]).sum()) / math.log(2), rel=1e-4)
        _, best, true = found["lens"]["layers"][-1][t]
        assert best == pytest.approx(float(p[t].max()), rel=1e-4)
        if t + 1 < len(ids):
            assert true == pytest.approx(float(p[t, ids[t + 1]]), rel=1e-3)
            assert found["tokens"][t + 1]["rank"] == 1 + int((p[t] > p[t, ids[t + 1]]).sum())
    assert len(found["lens"]["layers"]) == model.config.num_hidden_layers + 1


def test_the_lens_at_the_embedding_is_the_head_on_it(seed, tokenizer, ids):
    torch.manual_seed(seed)
    model = small(tokenizer, **SWITCHES)
    found = read_text(model, tokenizer, ids, top=1)["lens"]["layers"][0]
    with torch.no_grad():
        x = model.model.norm(model.model.embed_tokens(torch.tensor(ids)))
        p = (5.0 * torch.tanh(0.5 * x @ model.lm_head.weight.T / 5.0)).softmax(-1)
    assert [best for _, best, _ in found] == pytest.approx(p.max(-1).values.tolist(), rel=1e-4)


def test_attention_is_the_models(seed, tokenizer, ids):
    torch.manual_seed(seed)
    model = small(tokenizer)
    found = read_text(model, tokenizer, ids, top=1)["attention"]
    L, H, T = found["layers"], found["heads"], found["size"]
    packed = np.frombuffer(base64.b64decode(found["data"]), np.uint8).reshape(L, H, T * (T + 1) // 2) / 255
    with torch.no_grad():
        real = torch.stack(model(torch.tensor([ids]), output_attentions=True).attentions)[:, 0].numpy()
    rows, columns = np.tril_indices(T)
    assert np.abs(packed - real[:, :, rows, columns]).max() < STEP


def test_a_distribution_can_be_summed_at_every_temperature(seed, tokenizer, ids):
    torch.manual_seed(seed)
    model = small(tokenizer)
    found = read_text(model, tokenizer, ids, top=1)["sampling"]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    for row, real in zip(found, logits, strict=True):
        assert [logit for _, logit in row["kept"]] == pytest.approx(
            real.topk(len(row["kept"])).values.tolist(), rel=1e-5
        )
        assert len(row["kept"]) + sum(n for _, n in row["rest"]) == len(real)
        for temperature in (0.5, 1.0, 3.0):
            kept = sum(math.exp(logit / temperature) for _, logit in row["kept"])
            binned = kept + sum(n * math.exp(logit / temperature) for logit, n in row["rest"])
            assert binned == pytest.approx(float((real / temperature).exp().sum()), rel=0.01)


def test_damaged_weights_are_one_line(tokenizer, ids):
    model = small(tokenizer)
    model.model.norm.weight.data[0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        read_text(model, tokenizer, ids, top=1)


def test_a_recurrent_network_has_no_attention(seed, tokenizer, ids):
    from rhapsode.recipes.baselines import causal_lm  # noqa: F401  registers the classes
    from rhapsode.recipes.baselines.configuration_baselines import LSTMConfig
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(LSTMConfig(vocab_size=len(tokenizer), hidden_size=16)).eval()
    found = read_text(model, tokenizer, ids, top=1)
    assert found["attention"] is None and rotation(model) is None
    assert len(found["tokens"]) == len(ids)


# Rotary positions


def test_the_curves_are_those_of_rotated_vectors(seed):
    torch.manual_seed(seed)
    model = RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny"))
    theta, distances = model.model.rotary_emb.inv_freq.double(), torch.tensor([0, 1, 2, 7, 100])
    R = 2 * len(theta)
    q = torch.ones(1, 1, len(distances), R, dtype=torch.float64)
    angle = distances[:, None] * theta
    turned = apply_rotary(q, angle.cos()[None, None], angle.sin()[None, None], rotate_half_split)
    assert torch.allclose(equal_vectors(theta, distances), (turned * q).sum(-1).flatten() / R)
    for d, found in zip(distances.tolist(), bound(theta, distances).tolist(), strict=True):
        total, sums = 0, []
        for rate in theta.tolist():
            total += complex(math.cos(d * rate), math.sin(d * rate))
            sums.append(abs(total))
        assert found == pytest.approx(sum(sums) / sum(range(1, len(theta) + 1)))
    assert rotation(model)["theta"] == pytest.approx(theta.tolist())


# The architecture


@pytest.mark.parametrize("name", [name for name in presets() if not name.endswith(TINY)])
def test_the_drawing_of_a_preset_counts_every_parameter_once(name):
    found = inspect_preset(name)["blueprint"]
    assert sum(part["parameters"] * part["repeat"] for part in found["parts"]) == found["parameters"]
    with torch.device("meta"):
        config = RhapsodeConfig.from_preset(name)
        assert found["parameters"] == sum(p.numel() for p in RhapsodeForCausalLM(config).parameters())
    assert max(part["repeat"] for part in found["parts"]) == config.num_hidden_layers


def test_other_families_are_drawn_too(tokenizer):
    for model in others(len(tokenizer)).values():
        found = blueprint(model)
        assert sum(part["parameters"] * part["repeat"] for part in found["parts"]) == found["parameters"]
        assert found["wiring"] is None


@pytest.mark.parametrize(
    "switches",
    [
        *({"norm_order": order} for order in ("pre", "output", "sandwich", "post")),
        *({"parallel_block": True, "parallel_shared_norm": shared} for shared in (True, False)),
    ],
    ids=str,
)
def test_the_wiring_computes_the_block(seed, tokenizer, switches):
    """Its steps, run one after the other on the modules that they name, give what the block gives."""
    torch.manual_seed(seed)
    model = small(tokenizer, **switches)
    block, x = model.model.layers[0], torch.randn(1, 5, model.config.hidden_size)
    rotary = model.model.rotary_emb(x, torch.arange(5)[None])
    mask = torch.full((5, 5), -torch.inf).triu(1)[None, None]
    values = []
    with torch.no_grad():
        for step in blueprint(model)["wiring"]:
            inputs = [values[i] for i in step["inputs"]]
            compute = {
                "stream": lambda inputs, step: x,
                "add": lambda inputs, step: inputs[0] + inputs[1],
                "norm": lambda inputs, step: getattr(block, step["label"])(inputs[0]),
                "attention": lambda inputs, step: block.self_attn(inputs[0], rotary, mask)[0],
                "mlp": lambda inputs, step: block.mlp(inputs[0]),
            }[step["kind"]]
            values.append(compute(inputs, step))
        assert torch.allclose(values[-1], block(x, mask, rotary), atol=1e-5)


def test_the_cache_grows_as_the_real_one(tokenizer, ids):
    model = small(tokenizer).to(torch.bfloat16)
    with torch.no_grad():
        real = model(torch.tensor([ids]), use_cache=True)[CACHE]
    held = sum(t.numel() * t.element_size() for layer in real.layers for t in (layer.keys, layer.values))
    assert cache(model.config)["per_token"] * len(ids) == held
    windowed = RhapsodeConfig(**{"num_hidden_layers": 2, "sliding_window": 16, "max_position_embeddings": 64})
    windowed.layer_types = ["sliding_attention", "full_attention"]
    found = cache(windowed)
    each = found["per_token"] // 2
    assert found["lengths"][-1] == 64 and found["bytes"][-1] == each * (16 + 64)


# The page


class Page(HTMLParser):
    """The scripts, and every address that the page asks for."""

    def __init__(self, text: str):
        super().__init__()
        self.scripts, self.addresses, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action", "data")]

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data


def test_what_a_text_says_stays_text():
    nasty = "</script><script>alert(1)</script><!-- @@script@@ \u2028 &amp; <img src=x onerror=alert(1)>"
    data = {"title": nasty, "reading": {"tokens": [{"text": nasty}]}, "rotation": None, "blueprint": {"class": nasty}}
    page = Page(render(data))
    assert len(page.scripts) == 2 and page.addresses == []
    assert json.loads(page.scripts[0]) == data
    assert "alert(1)" not in page.scripts[1]


def test_the_command(seed, tokenizer, tmp_path, capsys):
    torch.manual_seed(seed)
    small(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    target = tmp_path / "deep" / "page.html"
    assert run_command("inspect", [str(tmp_path / "model"), "for i in range(3):", "--output", str(target)]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    data = json.loads(Page(target.read_text(encoding="utf-8")).scripts[0])
    assert "".join(token["text"] for token in data["reading"]["tokens"]).endswith("for i in range(3):")
    assert data["reading"]["cut"] == 0 and data["rotation"] and data["blueprint"]["wiring"]
    flags = [str(tmp_path / "model"), "for i in range(3):", "--max_tokens", "4", "--output", str(target)]
    assert run_command("inspect", flags) == 0
    data = json.loads(Page(target.read_text(encoding="utf-8")).scripts[0])
    assert len(data["reading"]["tokens"]) == 4 and data["reading"]["cut"] > 0
    assert "the first 4 of" in capsys.readouterr().err
    assert run_command("inspect", ["--architecture", "falcon-7b", "--output", str(target)]) == 0
    data = json.loads(Page(target.read_text(encoding="utf-8")).scripts[0])
    assert data["reading"] is None and data["blueprint"]["parameters"] == 6_921_720_704


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "needs a model and a text"),
        (["model"], "needs a model and a text"),
        (["--architecture", "falcon-7b", "model"], "draws a preset"),
        (["--architecture", "falcon-8b"], "falcon-7b"),
        (["nowhere", "text"], "cannot be opened"),
        (["model", "text", "--top", "0"], "--top 0 must be above 0"),
        (["model", "text", "--max_tokens", "1"], "--max_tokens 1 leaves nothing"),
        (["model", "text", "--output", "page.pdf"], "must end in .html"),
    ],
)
def test_bad_input_is_one_line(flags, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_command("inspect", flags) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error
    assert list(tmp_path.iterdir()) == []
