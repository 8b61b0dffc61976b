"""Folders that others have filled: no pickle is read, no changed code runs, no name leads out of them."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM, RhapsodeForSequenceClassification, export, load_foreign
from rhapsode.hub.code import check_before_loading, code_hash, verify
from rhapsode.hub.source import check_revision
from rhapsode.hub.untrusted import check_folder
from rhapsode.recipes.alignment.reward_functions import open_reward_functions
from rhapsode.recipes.cli import main
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.trainers.models import load_arguments
from rhapsode.recipes.training.setup import load_model, load_tokenizer
from rhapsode.tokenization.training import train_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An export, made once."""
    tokenizer = train_tokenizer(["def f(x):\n    return x\n" * 20], vocab_size=320, show_progress=False)
    config = RhapsodeConfig.from_preset("rhapsode-10m-tiny", vocab_size=len(tokenizer), eos_token_id=2, pad_token_id=0)
    return export(RhapsodeForCausalLM(config), tmp_path_factory.mktemp("made") / "export", tokenizer)


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "inner" / "export"))


def edit(path: Path, **fields) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


HOSTILE = {
    "auto_map": ("config.json", {"auto_map": {"AutoConfig": "../../evil.Config"}}),
    "auto_map of the tokenizer": ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["/tmp/evil.Tok", None]}}),
    "auto_map that is no text": ("config.json", {"auto_map": {"AutoConfig": 3}}),
    "weight_map": ("model.safetensors.index.json", {"weight_map": {"a": "../../secret.safetensors"}}),
    "weight_map, absolute": ("model.safetensors.index.json", {"weight_map": {"a": "/etc/x.safetensors"}}),
    "transformers_weights": ("config.json", {"transformers_weights": "../x.safetensors"}),
    "chat_template": ("tokenizer_config.json", {"chat_template": [{"name": "../../evil", "template": "x"}]}),
    "import": ("norms.py", '"""\nfrom ./../../evil import x\n"""\n'),
    "import from above": ("norms.py", "from ..evil import x\n"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_no_name_leads_out_of_the_folder(what, folder, tmp_path, capsys):
    name, content = HOSTILE[what]
    path = folder / name
    if not path.exists():
        path.write_text("{}")
    if isinstance(content, str):
        path.write_text(content)
    else:
        edit(path, **content)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for attempt in (
        lambda: check_folder(folder),
        lambda: export(folder, tmp_path / "out"),
        lambda: verify(folder),
        lambda: load_model(str(folder)),
        lambda: load_tokenizer(str(folder), trust_remote_code=True),
        lambda: load_foreign(folder),
    ):
        with pytest.raises(ValueError, match="refused: it"):
            attempt()
    assert main(["export", "--model", str(folder), "--output_dir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_pickles_are_never_read(folder, tmp_path, capsys, monkeypatch):
    """Wherever a model is opened: a directory whose only weights are a pickle is refused, with the fix."""
    bomb, read = tmp_path / "exploded", []
    monkeypatch.setattr(torch, "load", lambda *arguments, **_: read.append(arguments))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"model.norm.weight": Bomb(bomb)}))
    arguments = type("Arguments", (), {"model_init_kwargs": None, "trust_remote_code": False})
    for attempt in (
        lambda: load_model(str(folder)),
        lambda: load_foreign(folder),
        lambda: export(folder, tmp_path / "out"),
        lambda: open_reward_functions([str(folder)], False),
        lambda: RhapsodeForCausalLM.from_pretrained(folder),
        lambda: RhapsodeForSequenceClassification.from_pretrained(folder, use_safetensors=False),
        lambda: AutoModelForCausalLM.from_pretrained(folder, **load_arguments(arguments)),
    ):
        with pytest.raises((ValueError, OSError)):
            attempt()
    for command in (["chat", "--model", str(folder)], ["evaluate", "--model", str(folder)]):
        assert main(command) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("rhapsode") and "a pickle" in error and "safetensors" in error
    assert not bomb.exists() and read == []
    with pytest.raises(ValueError, match="save_pretrained writes safetensors"):
        export(folder, tmp_path / "out")
    load_tokenizer(str(folder))  # it has no weights


def test_changed_code_is_reported_before_it_runs(folder, tmp_path, capsys):
    exploded = tmp_path / "exploded"
    assert main(["verify", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: unchanged, sha256 {code_hash(folder)}\n"
    known = code_hash(folder)
    (folder / "norms.py").write_text((folder / "norms.py").read_text() + f"\nopen({str(exploded)!r}, 'w')\n")
    assert main(["verify", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "was changed after the export (norms.py)" in error and error.count("\n") == 1
    for attempt in (
        lambda: load_model(str(folder), trust_remote_code=True),
        lambda: load_tokenizer(str(folder), trust_remote_code=True),
    ):
        with pytest.raises(ValueError, match=r"changed after the export \(norms\.py\)"):
            attempt()
    load_model(str(folder))  # without trust the code is the package's
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace(known, code_hash(folder)))  # whoever changes one may change both
    with pytest.raises(ValueError, match=r"not this Rhapsode's, norms\.py differ"):
        verify(folder)
    assert "unchanged" in verify(folder, sha256=code_hash(folder))
    with pytest.raises(ValueError, match="do not run it"):
        verify(folder, sha256=known)
    assert not exploded.exists()


def test_files_beside_the_code_count_as_changes(folder):
    (folder / "tokenization_evil.py").write_text("x = 1\n")
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_evil.Tok", None]})
    with pytest.raises(ValueError, match=r"tokenization_evil\.py"):
        verify(folder)
    (folder / "tokenization_evil.py").unlink()
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["owner/evil--tokenization_evil.Tok", None]})
    for attempt in (lambda: verify(folder), lambda: check_before_loading(folder, trust_remote_code=True)):
        with pytest.raises(ValueError, match="takes its code from owner/evil"):
            attempt()
    check_before_loading(folder)


def test_a_folder_without_code(folder, tmp_path):
    for path in folder.glob("*.py"):
        path.unlink()
    (folder / "README.md").unlink()
    assert verify(folder).endswith("it brings no code")
    with pytest.raises(ValueError, match="neither a directory nor a Hub id"):
        verify(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is a directory"):
        verify(folder, revision="v1")


def test_the_first_words_of_revisions():
    for good in (None, "main", "v1.0", "refs/pr/4", "feature/x-2", "a" * 40):
        check_revision(good)


def test_the_weights_of_a_model_are_the_ones_that_were_saved(folder):
    """The check costs nothing of what an honest folder gives."""
    ours, theirs = RhapsodeForCausalLM.from_pretrained(folder), load_model(str(folder), trust_remote_code=True)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_is_opened_is_the_commit_that_was_looked_at(made, tmp_path, monkeypatch):
    """Somebody may push between the look and the load; a directory, and a load without code, need no commit."""
    snapshot = Path(shutil.copytree(made, tmp_path / "snapshots" / ("a1" * 20)))
    monkeypatch.setattr("rhapsode.hub.source.snapshot_download", lambda *args, **kwargs: str(snapshot))
    seen = []
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda source, **kwargs: seen.append(kwargs))
    load_tokenizer("owner/name", trust_remote_code=True, revision="main")
    assert seen == [{"trust_remote_code": True, "revision": snapshot.name}]
    assert check_before_loading("owner/name", revision="main") == {}
    assert check_before_loading(made, trust_remote_code=True) == {}
    (snapshot / "block.py").write_text("changed")
    with pytest.raises(UserError, match="changed after the export"):
        load_tokenizer("owner/name", trust_remote_code=True)
