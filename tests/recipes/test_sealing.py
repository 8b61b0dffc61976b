"""Files that take the places of others all at once or not at all, and what a failed write is called."""

import errno

import pytest
import torch
from rhapsode.recipes.training import sealing
from rhapsode.recipes.training.sealing import as_os_error, damage, not_finite, remove_unfinished, replacing, seal
from safetensors import SafetensorError


def test_files_are_replaced_once_all_of_them_are_there(tmp_path):
    (tmp_path / "model.safetensors").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    with replacing(tmp_path) as folder:
        (folder / "model.safetensors").write_text("new")
        (folder / "value_model").mkdir()
        (folder / "value_model" / "a").write_text("a")
        assert (tmp_path / "model.safetensors").read_text() == "old"
    found = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"model.safetensors": "new", "notes.txt": "mine", "value_model/a": "a"}
    assert not list(tmp_path.glob(".unfinished*"))


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (SafetensorError("Error while serializing: I/O error: no room (os error 28)"), errno.ENOSPC),
        (SafetensorError("something else"), errno.EIO),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), errno.EIO),
        (OSError(errno.EFBIG, "too large"), errno.EFBIG),
    ],
)
def test_a_write_that_fails_leaves_the_old_files(tmp_path, error, number):
    (tmp_path / "model.safetensors").write_text("old")
    with pytest.raises(OSError) as caught, replacing(tmp_path) as folder:
        (folder / "model.safetensors").write_text("new")
        raise error
    assert caught.value.errno == number
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("model.safetensors", "old")]


def test_other_errors_stay_what_they_are(tmp_path):
    assert as_os_error(RuntimeError("CUDA out of memory")) is None and as_os_error(ValueError("28")) is None
    with pytest.raises(RuntimeError, match="out of memory"), replacing(tmp_path):
        raise RuntimeError("out of memory")
    assert not list(tmp_path.iterdir())


def test_folders_within_are_sealed_too(tmp_path):
    written = tmp_path / f"{sealing.TEMPORARY}7"
    (written / "global_step7").mkdir(parents=True)
    (written / "global_step7" / "part").write_text("part")
    seal(written, tmp_path / "checkpoint-7")
    assert damage(tmp_path / "checkpoint-7") is None and not written.exists()
    (tmp_path / "checkpoint-7" / "global_step7" / "part").write_text("trap")
    assert damage(tmp_path / "checkpoint-7") == "global_step7/part does not match its hash"


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_the_first_tensor_that_is_not_finite(value):
    tensors = [
        ("count", torch.tensor([1])),
        ("a", torch.ones(3)),
        ("b", torch.tensor([0.0, value])),
        ("c", torch.ones(1)),
    ]
    assert not_finite(tensors) == "b" and not_finite(tensors[:2]) is None


def test_what_a_killed_process_left_is_removed_and_files_of_others_stay(tmp_path):
    (tmp_path / ".unfinished-7").mkdir()
    (tmp_path / ".unfinished-7" / "part").write_text("x")
    (tmp_path / ".unfinished-41-report.md").write_text("x")  # a small file, as options/base.py writes it
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".unfinished-41-report.md"]
