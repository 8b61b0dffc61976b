"""The baselines as models: saved and opened, packed and padded, trained and generating, against plain sequences."""

import json
import os
import subprocess
import sys

import pytest
import torch
from rhapsode.recipes.baselines.build import BASELINES, build_baseline
from rhapsode.recipes.cli import run_command
from rhapsode.recipes.data.tokens import IGNORED
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.training.loss import NextTokenLoss
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

SAME = {"rtol": 1e-4, "atol": 1e-5}  # float32 sums in another order
V = 60
SIZES = {
    "ngram": {"order": 3},
    "feedforward": {"order": 4, "hidden_size": 24, "embedding_size": 12, "initializer_range": 0.5},
    "rnn": {"hidden_size": 20, "num_hidden_layers": 2, "initializer_range": 0.5},
    "lstm": {"hidden_size": 16, "num_hidden_layers": 2, "initializer_range": 0.5},
}
TRAINED = [name for name in SIZES if name != "ngram"]
FRESH = """
import sys
import torch
torch.set_num_threads(1)
{before}
from transformers import AutoModelForCausalLM
for directory, (weights, expected) in torch.load(sys.argv[1]).items():
    model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code={trust}).eval()
    assert type(model).__module__.startswith({module!r}), type(model)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items()), directory
    with torch.no_grad():  # thin products are summed in an order that depends on where the file is mapped
        torch.testing.assert_close(model(input_ids=torch.arange(5, 40)[None]).logits, expected)
"""
BLOCKED = """
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "rhapsode":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NotInstalled())
"""


@pytest.fixture(params=SIZES)
def name(request) -> str:
    return request.param


@pytest.fixture
def build(seed):
    """`build(name)`: a small model with random weights, the n-gram fitted on random documents."""

    def make(name, **overrides):
        model_class = BASELINES[name]
        model = model_class(model_class.config_class(**{"vocab_size": V, **SIZES[name], **overrides})).eval()
        if name == "ngram":
            model.fit([torch.randint(8, (200,)) for _ in range(4)] + [torch.randperm(V)])
        return model

    return make


def draw(B: int, T: int) -> torch.Tensor:
    return torch.randint(3, 8, (B, T))


@torch.no_grad()
def logits(model, ids, **inputs) -> torch.Tensor:
    return model(input_ids=ids, use_cache=False, **inputs).logits


def test_saved_and_opened_bit_for_bit(build, name, tmp_path):
    model, ids = build(name), draw(2, 30)
    model.save_pretrained(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(opened) is type(model)
    assert torch.equal(logits(opened, ids), logits(model, ids))
    assert opened.state_dict().keys() == model.state_dict().keys()
    assert opened.num_parameters() == model.num_parameters() > 0
    assert AutoConfig.from_pretrained(tmp_path).model_type == f"rhapsode_{name}"
    for kind, path in json.loads((tmp_path / "config.json").read_text())["auto_map"].items():
        module, class_name = path.split(".")
        assert f"class {class_name}(" in (tmp_path / f"{module}.py").read_text(), kind


@pytest.mark.parametrize("installed", [pytest.param(True, marks=pytest.mark.slow), False])
def test_opened_in_a_fresh_process(build, tmp_path, installed):
    """By `import rhapsode`, and as remote code where Rhapsode cannot be imported."""
    expected = {}
    for name in SIZES:
        model = build(name)
        model.save_pretrained(tmp_path / name)
        expected[str(tmp_path / name)] = model.state_dict(), logits(model, torch.arange(5, 40)[None])
    torch.save(expected, tmp_path / "expected.pt")
    place = ("import rhapsode", "rhapsode.recipes.baselines") if installed else (BLOCKED, "transformers_modules")
    code = FRESH.format(before=place[0], trust=not installed, module=place[1])
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, str(tmp_path / "expected.pt")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_only_what_is_left_counts(build, name):
    model, ids = build(name), draw(1, 20)
    changed = ids.clone()
    changed[0, 12] = 8
    before, after = logits(model, ids), logits(model, changed)
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.equal(before[:, 12], after[:, 12])


@pytest.mark.parametrize("direct", [False, True])
def test_packed_is_separate(build, name, direct):
    """Rows of several documents, which begin at other columns in each row, give each what it gets alone."""
    if direct and name != "feedforward":
        pytest.skip("only the feed-forward network has direct connections")
    model = build(name, direct_connections=True) if direct else build(name)
    lengths = [[3, 1, 12, 8], [10, 14], [24]]
    rows = [[draw(1, T) for T in row] for row in lengths]
    ids = torch.cat([torch.cat(row, dim=1) for row in rows])
    positions = torch.stack([torch.cat([torch.arange(T) for T in row]) for row in lengths])
    packed = logits(model, ids, position_ids=positions)
    for row, documents in enumerate(rows):
        alone = torch.cat([logits(model, document) for document in documents], dim=1)
        torch.testing.assert_close(packed[row], alone[0], **SAME)
    assert not torch.allclose(packed, logits(model, ids), **SAME)


def test_padding_changes_nothing(build, name):
    model, ids = build(name), draw(1, 9)
    alone, padding = logits(model, ids), torch.zeros(1, 5, dtype=torch.int64)
    for left in (True, False):
        padded = torch.cat([padding, ids] if left else [ids, padding], dim=1)
        mask = torch.tensor([[0] * 5 + [1] * 9] if left else [[1] * 9 + [0] * 5])
        got = logits(model, padded, attention_mask=mask)[:, 5:] if left else logits(model, padded)[:, :9]
        torch.testing.assert_close(got, alone, **SAME)


@pytest.mark.parametrize("beams", [1, 3])
def test_generates_with_and_without_state(build, name, beams):
    """Greedily and with beams, of a ragged batch: what follows is what the whole sequence would give."""
    model, short, long = build(name), draw(1, 4), draw(1, 9)
    ids = torch.cat([torch.cat([torch.zeros(1, 5, dtype=torch.int64), short], dim=1), long])
    mask = torch.tensor([[0] * 5 + [1] * 4, [1] * 9])
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None, "num_beams": beams}
    batch = model.generate(ids, attention_mask=mask, **settings)
    for row, prompt in enumerate((short, long)):
        for use_cache in (True, False):
            alone = model.generate(prompt, attention_mask=torch.ones_like(prompt), use_cache=use_cache, **settings)
            assert alone[0, prompt.shape[1] :].tolist() == batch[row, 9:].tolist()
    if beams == 1:
        for end in range(9, 17):  # the short prompt begins in column 5
            assert batch[0, end] == logits(model, batch[:1, 5:end])[0, -1].argmax()


def test_sampling_draws_from_the_model(build, name):
    model = build(name)
    torch.manual_seed(0)
    out = model.generate(draw(1, 5), do_sample=True, max_new_tokens=6, num_return_sequences=3, pad_token_id=0)
    assert out.shape[0] == 3
    assert out.max() < V


@pytest.mark.parametrize("name", TRAINED)
def test_the_chunked_loss_is_the_model_s_own(build, name):
    """Through `base_model` and the head, or through the model: the same loss and gradients, joins left out."""
    model, ids = build(name), draw(2, 16)
    positions = torch.cat([torch.arange(6), torch.arange(10)]).expand(2, -1)
    labels = torch.where(positions == 0, IGNORED, ids)
    batch = {"input_ids": ids, "position_ids": positions, "labels": labels}
    count = (labels[:, 1:] != IGNORED).sum()
    chunked = NextTokenLoss(model)(batch, count)
    chunked.backward()
    gradients = {key: p.grad.clone() for key, p in model.named_parameters()}
    model.zero_grad()
    own = model(**batch, use_cache=False, num_items_in_batch=count).loss
    own.backward()
    torch.testing.assert_close(chunked, own)
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key], **SAME)


@pytest.mark.parametrize("name", TRAINED)
def test_learns(build, name):
    """A sequence in which each token says the next one; under autocast, as on most machines."""
    model = build(name).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        ids = (torch.arange(12) * 7 + torch.randint(V, (16, 1))) % V
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 2.0  # nats; guessing costs 4.1, knowing nothing


def test_the_feed_forward_network_is_the_paper_s(build):
    """b + W x + U tanh(d + H x), written out for one position."""
    model, ids = build("feedforward", direct_connections=True), draw(1, 5)
    C, E, hidden = model.config, model.model.embed_tokens.weight, model.model.hidden
    x = torch.cat([E[ids[0, 4 - i]] for i in range(C.order - 1)])
    W, U = model.lm_head.weight.split([x.numel(), C.hidden_size], dim=1)
    y = model.lm_head.bias + W @ x + U @ torch.tanh(hidden.bias + hidden.weight @ x)
    torch.testing.assert_close(logits(model, ids)[0, 4], y.detach(), **SAME)


@pytest.mark.parametrize("name", ["rnn", "lstm"])
def test_the_recurrences_are_the_papers(build, name):
    """One layer, step by step, by the equations in the module's docstring."""
    model, ids = build(name, num_hidden_layers=1), draw(1, 7)
    p, x = dict(model.model.recurrence.named_parameters()), model.model.embed_tokens.weight[ids[0]]
    h = c = torch.zeros(model.config.hidden_size)
    for t in range(7):
        z = p["weight_ih_l0"] @ x[t] + p["bias_ih_l0"] + p["weight_hh_l0"] @ h + p["bias_hh_l0"]
        if name == "rnn":
            h = torch.tanh(z)
            continue
        i, f, g, o = z.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * torch.tanh(g)
        h = o.sigmoid() * torch.tanh(c)
    torch.testing.assert_close(logits(model, ids)[0, -1], model.lm_head(h).detach(), **SAME)


@pytest.mark.parametrize("name", TRAINED)
def test_initial_weights(build, name):
    """As documented, also the recurrent ones, which transformers would leave as torch made them or empty."""
    model = build(name, initializer_range=0.3)
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(0.3, rel=0.2)
    for key, p in model.named_parameters():
        if "recurrence.weight" in key:
            assert p.abs().max() <= model.config.hidden_size**-0.5
            assert p.abs().max() > 0.8 * model.config.hidden_size**-0.5
    if name == "lstm":
        H = model.config.hidden_size
        assert model.model.recurrence.bias_hh_l1.tolist() == [0.0] * H + [1.0] * H + [0.0] * 2 * H
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    assert tied == model.config.tie_word_embeddings == (name != "feedforward")


def test_default_sizes_are_near_ten_million():
    for name in TRAINED:
        with torch.device("meta"):
            model = BASELINES[name](BASELINES[name].config_class())
        assert 9.5e6 < sum(p.numel() for p in model.parameters()) < 10.6e6, name
        assert isinstance(model.get_output_embeddings(), nn.Linear)


def test_evaluate_measures_every_baseline(build, corpus, tokenizer_directory, tmp_path, capsys):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    for name in SIZES:
        model = build_baseline(name, SIZES[name], tokenizer, 64)
        if name == "ngram":
            texts = [path.read_text() for path in sorted(corpus.iterdir())]
            model.fit([[tokenizer.bos_token_id, *tokenizer(text).input_ids] for text in texts])
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        flags = ["--model", str(tmp_path / name), "--dataset", str(corpus), "--max_length", "64", "--json"]
        assert run_command("evaluate", flags) == 0
        result = json.loads(capsys.readouterr().out)
        assert 0 < result["bits_per_byte"] < (1.5 if name == "ngram" else 12), name  # the n-gram has seen this text


BAD = {
    "unknown architecture": ("lstn", {}, "did you mean 'lstm'"),
    "unknown field": ("rnn", {"hiden_size": 3}, "did you mean 'hidden_size'"),
    "another one's field": ("lstm", {"order": 3}, "lstm has no such field"),
    "wrong type": ("lstm", {"hidden_size": "big"}, "hidden_size"),
    "nothing": ("feedforward", {"hidden_size": 0}, "hidden_size=0 must be above 0"),
    "no context": ("feedforward", {"order": 1}, "use 2 or more"),
    "tied": ("rnn", {"embedding_size": 3, "hidden_size": 4}, "tie_word_embeddings=False"),
    "dropout": ("rnn", {"dropout": 1.0}, "dropout=1.0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case, tokenizer_directory):
    architecture, overrides, expected = BAD[case]
    with pytest.raises(UserError, match=expected):
        build_baseline(architecture, overrides, AutoTokenizer.from_pretrained(tokenizer_directory), 64)
