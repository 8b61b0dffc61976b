"""Publishing with the real client of the Hub, against one on this machine (`loopback_hub.py`)."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM, export
from rhapsode.hub.code import verify
from rhapsode.hub.push import push
from rhapsode.hub.source import hub_errors
from rhapsode.tokenization.training import train_tokenizer
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
from loopback_hub import LoopbackHub

WRONG = "hf_" + "wR0ng" * 8


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["def f(x):\n    return x\n" * 20], vocab_size=320, show_progress=False)


@pytest.fixture
def model(tokenizer, seed):
    fields = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    config = RhapsodeConfig.from_preset("rhapsode-10m-tiny", pad_token_id=tokenizer.pad_token_id, **fields)
    return RhapsodeForCausalLM(config).eval()


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # Xet's protocol is Rust, and not HTTP
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between retries
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with LoopbackHub() as running:
        yield running


def files(hub, name="owner/mine", revision="main") -> dict[str, bytes]:
    return hub.repos[name].files(revision)[1]


PUSHED_BY_THE_MODEL = """
import sys
import rhapsode
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

model = AutoModelForCausalLM.from_pretrained("saved")
tokenizer = AutoTokenizer.from_pretrained("saved")
model.push_to_hub("owner/model", private=True)
tokenizer.push_to_hub("owner/model")
arguments = TrainingArguments("work", hub_model_id="owner/trainer", hub_private_repo=True, report_to=[], use_cpu=True)
Trainer(model, arguments, processing_class=tokenizer).push_to_hub()
"""
OPENED_ELSEWHERE = """
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

names = sys.argv[1:]
torch.set_num_threads(1)
ids, found, trust = load_file("ids.safetensors")["ids"], {}, {"trust_remote_code": True}
for name in names:
    model = AutoModelForCausalLM.from_pretrained("owner/" + name, **trust).eval()
    with torch.no_grad():
        found[name] = model(input_ids=ids).logits
        hidden = AutoModel.from_pretrained("owner/" + name, **trust).eval()(input_ids=ids).last_hidden_state
        assert torch.equal(model.lm_head(hidden), found[name])
        assert model.generate(ids[:1, :4], max_new_tokens=3, do_sample=False).shape[1] <= 7
    tokenizer = AutoTokenizer.from_pretrained("owner/" + name)
    assert tokenizer.decode(tokenizer("a b\\n  c", add_special_tokens=False).input_ids) == "a b\\n  c"
kinds = set()
for revision in ("main", "doubled", "main") if "mine" in names else ():  # each keeps its own code
    model = AutoModelForCausalLM.from_pretrained("owner/mine", revision=revision, **trust).eval()
    kinds.add(type(model))
    with torch.no_grad():
        key = revision if revision not in found else revision + "-again"
        found[key] = model(input_ids=ids).logits
assert len(kinds) == 2 or "mine" not in names
assert "rhapsode" not in sys.modules
save_file(found, "logits.safetensors")
"""


def run(code: str, names: list[str], cwd, hub) -> str:
    """What a process says that has this Hub, and its token in the environment."""
    environment = {"PATH": os.environ["PATH"], "HF_TOKEN": hub.token, **hub.environment(cwd / "home")}
    command = [sys.executable, "-c", code, *names]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture
def published(hub, model, tokenizer, tmp_path):
    """A model that is on the Hub as owner/mine, random tokens, and the logits that every copy of it must give."""
    ids = torch.randint(3, len(tokenizer), (2, 90))
    save_file({"ids": ids}, tmp_path / "ids.safetensors")
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    address = push(tmp_path / "saved", "owner/mine", endpoint=hub.url, token=hub.token)
    assert address.startswith(f"{hub.url}/owner/mine (")
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_published_models_open_where_rhapsode_is_not_installed(
    hub, published, model, tokenizer, without_rhapsode, tmp_path
):
    """Public, private, and another branch with other code."""
    common = {"endpoint": hub.url, "token": hub.token}
    push(model, "owner/hidden", private=True, tokenizer=tokenizer, **common)
    doubled = export(tmp_path / "saved", tmp_path / "doubled")
    code = doubled / "modeling_rhapsode.py"
    code.write_text(code.read_text().replace("self.scale_logits(self.lm_head(", "2 * self.scale_logits(self.lm_head("))
    with pytest.raises(ValueError, match=r"the code was changed after the export \(modeling_rhapsode\.py\)"):
        push(doubled, "owner/mine", revision="doubled", **common)
    (doubled / "README.md").write_text("# without a hash\n")
    assert push(doubled, "owner/mine", revision="doubled", **common).startswith(f"{hub.url}/owner/mine/tree/doubled (")
    assert b"2 * self.scale" in files(hub, revision="doubled")["modeling_rhapsode.py"]
    assert b"2 * self.scale" not in files(hub)["modeling_rhapsode.py"]
    assert [hub.repos[f"owner/{name}"].private for name in ("mine", "hidden")] == [False, True]

    said = run(without_rhapsode + OPENED_ELSEWHERE, ["mine", "hidden"], tmp_path, hub)
    found = load_file(tmp_path / "logits.safetensors")
    for name in ("mine", "hidden", "main", "main-again"):
        assert torch.equal(found[name], published), name
    assert torch.equal(found["doubled"], 2 * published)
    no_token_is_left(hub, tmp_path, said)


@pytest.mark.slow
def test_push_to_hub_of_a_model_and_of_a_trainer(hub, published, without_rhapsode, tmp_path):
    """The same code, settings and weights; the card is transformers' own."""
    said = run(PUSHED_BY_THE_MODEL, [], tmp_path, hub)
    said += run(without_rhapsode + OPENED_ELSEWHERE, ["model", "trainer"], tmp_path, hub)
    for name, logits in load_file(tmp_path / "logits.safetensors").items():
        assert torch.equal(logits, published), name
    for name in ("owner/model", "owner/trainer"):
        there, ours = files(hub, name), files(hub)
        assert hub.repos[name].private
        for path in [path for path in ours if path.endswith(".py")] + ["tokenizer.json", "model.safetensors"]:
            assert there[path] == ours[path], (name, path)
        for path in ("config.json", "generation_config.json"):
            settings = [json.loads(content[path]) | {"use_cache": None} for content in (there, ours)]
            assert settings[0] == settings[1], (name, path)  # transformers' trainer turns the cache off
    no_token_is_left(hub, tmp_path, said)


def no_token_is_left(hub, directory: Path, said: str) -> None:
    everything = [path.read_bytes() for path in directory.rglob("*") if path.is_file()]
    everything += [content for repo in hub.repos for content in files(hub, repo).values()]
    assert len(everything) > 30
    assert not any(hub.token.encode() in content for content in [*everything, said.encode()])


def test_an_upload_that_breaks_off_goes_on(hub, model, tokenizer, tmp_path):
    """What was sent is not sent again, and nothing is published before all of it is there."""
    settings = {"tokenizer": tokenizer, "max_shard_size": "100KB", "endpoint": hub.url, "token": hub.token}
    hub.break_upload_of = 3
    with pytest.raises(ValueError, match=r"owner/mine was not published: .*; do it again, what is there is not sent"):
        push(model, "owner/mine", **settings)
    before, total = len(hub.sent), sum(p.numel() * 4 for p in model.parameters())
    assert before == 2
    assert files(hub).keys() == {".gitattributes"}
    hub.break_upload_of = None
    push(model, "owner/mine", **settings)
    shards = [name for name in files(hub) if name.endswith(".safetensors")]
    assert len(hub.sent) == len(set(hub.stored)) == len(shards) > before
    assert total <= sum(hub.sent) < total + 20_000  # headers, and nothing twice
    asked = len(hub.requests)
    push(model, "owner/mine", **settings)  # once more: nothing is sent, and no commit made
    assert len(hub.sent) == len(shards) and len(hub.repos["owner/mine"].branches["main"]) == 2
    assert not [path for method, path in hub.requests[asked:] if method == "PUT"]


def test_weights_of_an_earlier_push_go_away(hub, model, tokenizer, tmp_path):
    """Else `from_pretrained` would open the old ones: it looks for model.safetensors before it looks for shards."""
    common = {"tokenizer": tokenizer, "endpoint": hub.url, "token": hub.token}
    push(model, "owner/mine", **common)
    hub.repos["owner/mine"].branches["main"][-1][2]["notes.md"] = b"mine"
    push(model, "owner/mine", max_shard_size="100KB", commit_message="shards", **common)
    assert "model.safetensors" not in files(hub) and "model.safetensors.index.json" in files(hub)
    assert files(hub)["notes.md"] == b"mine"
    assert hub.repos["owner/mine"].branches["main"][-1][1] == "shards"
    push(model, "owner/mine", **common)
    assert [name for name in files(hub) if "safetensors" in name] == ["model.safetensors"]


def test_what_is_refused_before_anything_is_sent(hub, model, tokenizer, tmp_path, monkeypatch):
    common = {"tokenizer": tokenizer, "endpoint": hub.url, "token": hub.token}
    for name, words in (
        ("mine", "lacks its owner"),
        ("a/b/c", "no name of a repository"),
        ("../mine", "no name of a repository"),
        ("owner/a..b", "no name of a repository"),
    ):
        with pytest.raises(ValueError, match=words):
            push(model, name, **common)
    for revision in ("../x", "-f", "a b", "x.lock", "a\nb", "", "refs^", "/a", "a//b", "a/.b", "x" * 300):
        with pytest.raises(ValueError, match="is no name of a branch"):
            push(model, "owner/mine", revision=revision, **common)
    monkeypatch.setattr("rhapsode.hub.push.get_token", lambda: None)
    with pytest.raises(ValueError, match="there is no token"):
        push(model, "owner/mine", **{**common, "token": None})
    assert hub.requests == []


def test_what_the_hub_refuses_is_one_line(hub, model, tokenizer, capfd):
    common = {"tokenizer": tokenizer, "endpoint": hub.url}
    with pytest.raises(ValueError, match=r"the token is refused \(401\).*hf auth login") as caught:
        push(model, "owner/mine", token=WRONG, **common)
    assert hub.requests == [("GET", "/api/whoami-v2")] and hub.repos == {}
    with pytest.raises(ValueError, match=r"other/mine was not published: the token is refused \(403\)"):
        push(model, "other/mine", token=hub.token, **common)
    push(model, "owner/mine", token=hub.token, **common)
    with pytest.raises(ValueError, match="owner/mine is public"):
        push(model, "owner/mine", private=True, token=hub.token, **common)
    said = capfd.readouterr()
    for token in (WRONG, hub.token):
        assert token not in str(caught.value) + said.out + said.err
    assert "\n" not in str(caught.value)


def test_no_hub_at_all(hub, model, tokenizer):
    hub.server.server_close()
    with pytest.raises(ValueError, match=r"cannot be asked who you are: ConnectError: .*; try again") as caught:
        push(model, "owner/mine", tokenizer=tokenizer, endpoint=hub.url.replace("127.0.0.1", "127.0.0.2"), token=WRONG)
    assert WRONG not in str(caught.value) and "\n" not in str(caught.value)


def test_what_an_export_must_not_hold(hub, model, tokenizer, tmp_path):
    common = {"endpoint": hub.url, "token": hub.token}
    folder = export(model, tmp_path / "export", tokenizer)
    for name, text, words in (
        ("notes.md", f"my token is {hub.token}", r"notes\.md holds your token"),
        ("run.yaml", "key: hf_" + "q1W" * 12, r"run\.yaml holds what looks like a Hugging Face token"),
        ("sub.json", '{"key": "-----BEGIN RSA PRIVATE KEY-----"}', r"sub\.json holds what looks like a private key"),
    ):
        (folder / name).write_text(text)
        with pytest.raises(ValueError, match=words) as caught:
            push(folder, "owner/mine", **common)
        assert hub.token not in str(caught.value)
        (folder / name).unlink()
    (tmp_path / "secret.txt").write_text("mine")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ValueError, match="is a link"):
        push(folder, "owner/mine", **common)
    (folder / "link.txt").unlink()
    with pytest.raises(ValueError, match="sent as it is; leave dtype out"):
        push(folder, "owner/mine", dtype="bfloat16", **common)
    assert hub.repos == {}
    (folder / ".env").write_text("HOME=1")
    (folder / "training_args.bin").write_bytes(b"pickle")
    push(folder, "owner/mine", **common)
    assert files(hub).keys() == {p.name for p in folder.iterdir()} - {".env", "training_args.bin"} | {".gitattributes"}
    assert files(hub)["README.md"] == (folder / "README.md").read_bytes()


def test_what_lies_on_the_hub_is_exported_from_there(hub, published, tmp_path, monkeypatch):
    """By its commit; pickles are not fetched, and a repository that leads elsewhere is refused."""
    fetch = partial(huggingface_hub.snapshot_download, endpoint=hub.url, token=hub.token, cache_dir=tmp_path / "cache")
    monkeypatch.setattr("rhapsode.hub.source.snapshot_download", fetch)
    repo = hub.repos["owner/mine"]
    commit, content = repo.files("main")
    repo.commit("main", "with a pickle", content | {"pytorch_model.bin": b"pickle", "config.json": b"{}"})
    folder = export("owner/mine", tmp_path / "out", revision=commit)
    assert (folder / "model.safetensors").read_bytes() == content["model.safetensors"]
    assert verify("owner/mine", revision=commit).startswith("owner/mine: unchanged")
    assert not list((tmp_path / "cache").rglob("*.bin"))
    evil = content | {"model.safetensors.index.json": b'{"weight_map": {"a": "../../../x.safetensors"}}'}
    repo.commit("main", "evil", evil)
    for name, revision, words in (
        ("owner/mine", None, "weight_map .* is refused"),
        ("owner/mine", "nowhere", "owner/mine cannot be opened"),
        ("owner/unknown", None, "owner/unknown cannot be opened"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            export(name, tmp_path / "other", revision=revision)
        assert "\n" not in str(caught.value) and not (tmp_path / "other").exists()


def test_no_error_repeats_a_token(monkeypatch):
    monkeypatch.setattr("rhapsode.hub.source.get_token", lambda: "hf_kept")
    for kept in (WRONG, "hf_kept"):
        words = r"x: RuntimeError: \*\*\* failed \(OSError: for \*\*\*\); try again"
        with pytest.raises(ValueError, match=words) as caught, hub_errors("x", token=WRONG):
            try:
                raise OSError(f"for\n{kept}")
            except OSError as error:
                raise RuntimeError(f"{kept} failed") from error
        assert caught.value.__cause__ is None and kept not in str(caught.value)
