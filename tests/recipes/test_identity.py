"""What a run has learned from: other rows or another model under the same name are another identity."""

import json
import shutil
from types import SimpleNamespace

import pytest
from datasets import Dataset
from rhapsode.recipes.alignment import identity as module
from rhapsode.recipes.alignment.identity import identity, model_files

FILES = {"config.json": "{}", "model.safetensors": "weights"}


def write(directory, **files: str):
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in (FILES | {name.replace("__", "."): text for name, text in files.items()}).items():
        (directory / name).write_text(text)
    return directory


def of(rows=("a", "b"), **options) -> dict:
    job = SimpleNamespace(train=Dataset.from_dict({"text": list(rows)}), options=SimpleNamespace(**options))
    return identity(job, trainer=SimpleNamespace())


def test_rows():
    assert of() == of() and list(of()) == ["rows of --dataset"]
    assert of(("a", "c")) != of() != of(("a",))


@pytest.mark.parametrize("option", ["model", "teacher", "reward_model"])
def test_a_directory_by_its_content(tmp_path, option):
    one = write(tmp_path / "one")
    before = of(**{option: str(one)})
    assert before.keys() == {"rows of --dataset", f"files of --{option}"}
    assert before == of(**{option: str(shutil.copytree(one, tmp_path / "copy"))})
    for name in FILES:
        other = write(shutil.copytree(one, tmp_path / f"other {name}"))
        (other / name).write_text("another")
        assert of(**{option: str(other)}) != before
    write(one, README__md="x", tokenizer__json="{}", consolidated__safetensors="not read")
    assert of(**{option: str(one)}) == before


def test_shards_are_those_of_the_index(tmp_path):
    index = json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}})
    files = {"model.safetensors.index.json": index, "1.safetensors": "x", "2.safetensors": "y", "3.safetensors": "z"}
    write(tmp_path / "model", **files)
    assert [path.name for path in model_files(str(tmp_path / "model"))] == [
        "config.json",
        "1.safetensors",
        "2.safetensors",
    ]


def test_an_adapter_and_its_base(tmp_path):
    base = write(tmp_path / "base")
    config = json.dumps({"base_model_name_or_path": str(base)})
    adapter = write(tmp_path / "adapter", adapter_config__json=config, adapter_model__safetensors="x")
    before = of(model=str(adapter))
    assert before["files of --model"]["count"] == 4
    for path in (base / "model.safetensors", adapter / "adapter_model.safetensors"):
        path.write_text("another")
        assert of(model=str(adapter)) != before
        before = of(model=str(adapter))


def test_reward_models_among_functions(tmp_path):
    reward = write(tmp_path / "a:b")  # a directory all the same
    before = of(reward_funcs=["judge", "module:function", str(reward)])
    assert before["files of --reward_funcs"]["count"] == 2
    (reward / "model.safetensors").write_text("another")
    assert of(reward_funcs=["judge", "module:function", str(reward)]) != before
    assert list(of(reward_funcs=["judge", "file.py:function"], model=None)) == ["rows of --dataset"]


def test_a_model_of_the_hub_by_its_cache(tmp_path, monkeypatch):
    """Another commit with the same files is the same model."""
    monkeypatch.setattr(
        module,
        "try_to_load_from_cache",
        lambda source, name: str(path) if (path := tmp_path / source / name).exists() else None,
    )
    write(tmp_path / "owner" / "name")
    assert of(model="owner/name") == of(model=str(tmp_path / "owner" / "name"))
    adapter = tmp_path / "owner" / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/name"}))
    (adapter / "adapter_model.safetensors").write_text("x")
    assert of(model="owner/adapter")["files of --model"]["count"] == 4
    assert list(of(model="owner/absent")) == ["rows of --dataset"]
