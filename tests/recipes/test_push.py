"""`rhapsode push`: what it prints, and that every fault is one line; the work is tested in tests/hub/test_push.py."""

import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.cli import main
from rhapsode.tokenization.training import train_tokenizer

sys.path.insert(0, str(Path(__file__).parent.parent / "hub"))
from loopback_hub import LoopbackHub


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    with LoopbackHub() as running:
        monkeypatch.setenv("HF_TOKEN", running.token)
        yield running


@pytest.fixture
def saved(tmp_path, seed) -> Path:
    """A run directory, as far as `push` looks at it."""
    tokenizer = train_tokenizer(["def f(x):\n    return x\n" * 20], vocab_size=320, show_progress=False)
    config = RhapsodeConfig.from_preset("gpt2-tiny", vocab_size=len(tokenizer))
    RhapsodeForCausalLM(config).save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    options = "# rhapsode pretrain --config config_resolved.yaml\ndataset: [stdlib]\noutput_dir: /home/me/x\n"
    (tmp_path / "run" / "config_resolved.yaml").write_text(options)
    return tmp_path / "run"


def test_the_address_is_printed(hub, saved, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    arguments = ["push", str(saved), "--repo_id", "owner/mine", "--endpoint", hub.url, "--license", "mit"]
    assert main([*arguments, "--private", "--revision", "v1", "--commit_message", "first", "--dtype", "bfloat16"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{hub.url}/owner/mine/tree/v1 (") and out.count("\n") == 1
    repo = hub.repos["owner/mine"]
    assert repo.private and [message for _, message, _ in repo.branches["v1"]] == ["initial commit", "first"]
    card = repo.files("v1")[1]["README.md"].decode()
    assert "license: mit" in card and 'from_pretrained("owner/mine", trust_remote_code=True)' in card
    assert "/home/me" not in card and "config_resolved.yaml" not in repo.files("v1")[1]
    assert hub.token not in out + err
    assert sorted(tmp_path.rglob("*")) == before  # nothing is left on this side


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "MODEL is missing"),
        (["{saved}"], "--repo_id is missing"),
        (["{saved}", "--repo_id", "a/b/c"], "'a/b/c' is no name of a repository"),
        (["{saved}", "--repo_id", "owner/mine", "--revision", "../x"], "revision '../x' is no name"),
        (["{saved}/nowhere", "--repo_id", "owner/mine"], "neither a directory nor a Hub id"),
        (["{saved}", "--repo_id", "owner/mine", "--tokn", "x"], "unknown argument --tokn"),
    ],
)
def test_faults_are_one_line(arguments, words, hub, saved, capsys):
    arguments = [argument.format(saved=saved) for argument in arguments]
    assert main(["push", *arguments, "--endpoint", hub.url]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rhapsode push: ") and words in error and error.count("\n") == 1
    assert hub.repos == {}


def test_a_refused_token_is_one_line_and_is_not_repeated(hub, saved, capsys, monkeypatch):
    wrong = "hf_" + "wR0ng" * 8
    monkeypatch.setenv("HF_TOKEN", wrong)
    assert main(["push", str(saved), "--repo_id", "owner/mine", "--endpoint", hub.url]) == 2
    out, err = capsys.readouterr()
    assert "the token is refused (401)" in err and err.count("\n") == 1
    assert wrong not in out + err and hub.repos == {}


def test_no_option_takes_a_token(capsys):
    with pytest.raises(SystemExit):
        main(["push", "--help"])
    assert "--token " not in capsys.readouterr().out
