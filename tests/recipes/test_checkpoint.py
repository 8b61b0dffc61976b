"""Checkpoints: bit-exact, whole or not there.

Oracles: the run that was never interrupted, and a file system that is made to fail.
"""

import errno
import os
import random
import resource
import shutil
import signal
import warnings
from pathlib import Path

import pytest
import torch
from rhapsode.modeling import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.options.pretrain import PretrainOptions
from rhapsode.recipes.training import checkpoint, sealing
from rhapsode.recipes.training.checkpoint import (
    NotFiniteError,
    Retention,
    best_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from rhapsode.recipes.training.ema import WeightAverage
from rhapsode.recipes.training.optimizers import build_optimizers, set_learning_rate
from rhapsode.recipes.training.sealing import MANIFEST
from rhapsode.recipes.training.state import collect, restore

STATE = {"step": 3, "tokens": 2**40, "seconds": 0.1 + 0.2}
MANY = 100


def build(optim: str = "adamw", tied: bool = True):
    """A tiny model with dropout, whose draws a resumed run has to repeat, and its optimizers."""
    config = RhapsodeConfig.from_preset("gpt2-tiny", vocab_size=40, num_hidden_layers=1, tie_word_embeddings=tied)
    model = RhapsodeForCausalLM(config).train()
    return model, build_optimizers(model, PretrainOptions(optim=optim))


def train(model, optimizers, steps, average=None) -> None:
    for step in steps:
        torch.manual_seed(step)  # as the loop does: dropout is a function of the step
        ids = torch.randint(40, (2, 8), generator=torch.Generator().manual_seed(step))
        model(input_ids=ids, labels=ids).loss.backward()
        set_learning_rate(optimizers, 1 / (step + 1))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if average:
            average.update(model)


def store(root: Path, step: int, model, optimizers, state: dict, average=None, **retention) -> Path:
    parts, rest = collect(model, optimizers, average)
    return save_checkpoint(root, step, parts, state | rest, Retention(**retention))


def load(path: Path, model, optimizers, average=None) -> dict:
    state = restore(path, model, optimizers, average)
    return {key: value for key, value in state.items() if key not in ("optimizers", "average_updates")}


def everything(model, optimizers, average=None) -> dict[str, torch.Tensor]:
    """Every number that the next step depends on."""
    found = {f"model.{name}": value for name, value in model.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        saved = optimizer.state_dict()
        for index, entries in saved["state"].items():
            found |= {f"{i}.{index}.{key}": value for key, value in entries.items()}
        for j, group in enumerate(saved["param_groups"]):
            found[f"{i}.group{j}"] = torch.tensor([group["lr"], group["peak_lr"], group["weight_decay"]]).double()
    if average:
        found |= {f"average.{name}": value for name, value in average.tensors().items()}
        found["updates"] = torch.tensor(average.updates)
    return {name: value.clone() for name, value in found.items()}


def assert_bit_equal(got: dict, expected: dict) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype == value.dtype, name
        assert torch.equal(got[name], value), name


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(seed, tmp_path, optim, tied):
    model, optimizers = build(optim, tied)
    average = WeightAverage(model, 0.9)
    train(model, optimizers, range(3), average)
    path = store(tmp_path, 3, model, optimizers, STATE, average)
    saved = everything(model, optimizers, average)
    train(model, optimizers, range(3, 6), average)
    uninterrupted = everything(model, optimizers, average)

    torch.manual_seed(seed + 1)
    model, optimizers = build(optim, tied)  # other weights, another random state
    average = WeightAverage(model, 0.9)
    assert load(path, model, optimizers, average) == STATE
    assert_bit_equal(everything(model, optimizers, average), saved)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    train(model, optimizers, range(3, 6), average)
    assert_bit_equal(everything(model, optimizers, average), uninterrupted)


def test_a_large_part_is_written_in_several_files(seed, tmp_path, monkeypatch):
    """What the main process holds at once is bounded; the limit is set low here, between two tensors' sizes."""
    monkeypatch.setattr(checkpoint, "FILE_BYTES", 10_000)
    model, optimizers = build("adamw")
    train(model, optimizers, range(1))
    saved = everything(model, optimizers)
    path = store(tmp_path, 1, model, optimizers, STATE)
    sizes = [file.stat().st_size for file in path.glob("*.safetensors")]
    assert len(sizes) > 4
    assert len(list(path.glob("model.*"))) > 1
    model, optimizers = build("adamw")
    load(path, model, optimizers)
    assert_bit_equal(everything(model, optimizers), saved)


def test_before_the_first_step(seed, tmp_path):
    model, optimizers = build()
    before = everything(model, optimizers)
    load(store(tmp_path, 0, model, optimizers, {}), model, optimizers)
    assert_bit_equal(everything(model, optimizers), before)


def test_nothing_is_pickled(seed, tmp_path):
    model, optimizers = build("muon")
    train(model, optimizers, range(1))
    path = store(tmp_path, 1, model, optimizers, STATE)
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}


# A folder full of checkpoints. The model in them is as small as can be: these tests are about files.


@pytest.fixture
def small(seed):
    model = torch.nn.Linear(3, 2)
    return model, [torch.optim.AdamW(model.parameters())]


@pytest.fixture
def save(small, tmp_path):
    def save(step: int, keep: int = MANY, metric: str | None = None, milestones: int | None = None, **metrics) -> Path:
        state = {"step": step, "metrics": metrics}
        return store(
            tmp_path / "checkpoints", step, *small, state, newest=keep, metric=metric, milestone_steps=milestones
        )

    return save


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_rotation_keeps_the_newest(save):
    for step in (1, 5, 9, 10, 100):
        path = save(step, keep=3)
    assert names(path.parent) == ["step-00000009", "step-00000010", "step-00000100"]
    assert newest_checkpoint(path.parent) == path
    assert names(save(101, keep=1).parent) == ["step-00000101"]


def test_the_best_and_milestones_are_kept(save):
    """By hand: losses 5, 2, 4, 3, 6 and 2 again; one newest, the best, and every third step."""
    kept = {1: {1}, 2: {2}, 3: {2, 3}, 4: {2, 3, 4}, 5: {2, 3, 5}, 6: {3, 6}}
    for step, loss in zip(kept, (5.0, 2.0, 4.0, 3.0, 6.0, 2.0), strict=True):
        path = save(step, keep=1, metric="eval_loss", milestones=3, eval_loss=loss)
        assert names(path.parent) == [f"step-{s:08d}" for s in sorted(kept[step])], step
    assert best_checkpoint(path.parent, "eval_loss") == path


def test_a_checkpoint_without_the_metric_is_never_the_best(save):
    save(1, metric="eval_loss", eval_loss=3.0)
    path = save(2, keep=1, metric="eval_loss")
    assert names(path.parent) == ["step-00000001", "step-00000002"]
    assert best_checkpoint(path.parent, "loss") is None


def test_steps_are_ordered_as_numbers(save):
    for step in (99_999_999, 100_000_000):
        path = save(step)
    assert newest_checkpoint(path.parent).name == "step-100000000"


def test_what_is_not_ours_stays(save):
    root = save(1).parent
    shutil.copytree(root / "step-00000001", root / "step-00000001-best")
    (root / "step-notes.txt").write_text("the learning rate was too high")
    path = save(2, keep=1)
    assert names(root) == ["step-00000001-best", "step-00000002", "step-notes.txt"]
    assert newest_checkpoint(root) == path


def flip(path: Path, position: int, bit: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1 << bit
    path.write_bytes(raw)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


DAMAGES = {
    "truncated": truncate,
    "emptied": lambda path: os.truncate(path, 0),
    "flipped": lambda path: flip(path, path.stat().st_size // 2, 3),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "missing": Path.unlink,
}
WEIGHTS = "model.00000.safetensors"
FILES = (WEIGHTS, "optimizer-0.00000.safetensors", "state.json", MANIFEST)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(save, name, damage):
    before, newest = save(1), save(2)
    DAMAGES[damage](newest / name)
    is_named = "" if (name, damage) == (MANIFEST, "flipped") else name  # there, whatever file it spells wrongly
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged .*{is_named}") as caught:
        assert newest_checkpoint(newest.parent) == before
    assert len(caught) == 1


def test_any_flipped_bit_is_noticed_or_harmless(save, small):
    """Also in the manifest itself, where a few bits (the white space) do not matter."""
    path = save(1)
    whole = {name: (path / name).read_bytes() for name in FILES}
    for name, raw in whole.items():
        for position in random.sample(range(len(raw)), min(len(raw), 150 if name == MANIFEST else 5)):
            flip(path / name, position, random.randrange(8))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = newest_checkpoint(path.parent)
            assert found is None or name == MANIFEST
            if found:
                assert load(found, *small) == {"step": 1, "metrics": {}}
            (path / name).write_bytes(raw)


def test_all_damaged_or_none_there(save, tmp_path):
    assert newest_checkpoint(tmp_path / "nowhere") is None
    paths = [save(1), save(2)]
    for path in paths:
        truncate(path / WEIGHTS)
    with pytest.warns(UserWarning) as caught:
        assert newest_checkpoint(paths[0].parent) is None
    assert [str(path) in str(w.message) for path, w in zip(reversed(paths), caught, strict=True)] == [True, True]


@pytest.mark.parametrize("keep", [1, 2])
def test_going_on_from_behind_a_damaged_checkpoint(save, keep):
    """The new one must not be rotated away because the damaged one has the higher step."""
    root = save(10).parent
    truncate(save(20) / WEIGHTS)
    new = save(15, keep=keep)
    assert names(root) == ["step-00000010", "step-00000015"][-keep:]
    assert newest_checkpoint(root) == new
    assert newest_checkpoint(save(20, keep=keep).parent).name == "step-00000020"


def test_saving_a_step_again_replaces_it(save, small):
    truncate(save(1) / WEIGHTS)
    path = save(1)
    assert newest_checkpoint(path.parent) == path
    assert load(path, *small) == {"step": 1, "metrics": {}}


def test_leftovers_of_a_killed_write_are_ignored_and_removed(save):
    """What is on the disk when the process dies anywhere before the renaming."""
    path = save(1)
    leftover = path.parent / ".unfinished-00000002"
    shutil.copytree(path, leftover)
    assert newest_checkpoint(path.parent) == path
    save(3)
    assert names(path.parent) == ["step-00000001", "step-00000003"]


FAILING = {"save_file": checkpoint, "file_hash": sealing, "_sync": sealing}


@pytest.mark.parametrize(("failing", "where"), FAILING.items(), ids=FAILING)
def test_a_full_disk_leaves_earlier_checkpoints_alone(save, monkeypatch, failing, where):
    path = save(1)
    monkeypatch.setattr(where, failing, no_space)
    with pytest.raises(OSError, match="No space left"):
        save(2, keep=1)
    monkeypatch.undo()
    assert names(path.parent) == [path.name]
    assert newest_checkpoint(path.parent) == path
    assert save(2, keep=1).exists()


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_limit_of_a_real_file_system(save, small):
    """safetensors has an error of its own for a write that fails; it arrives as the OSError that it is."""
    path = save(1)
    big = torch.nn.Linear(500, 500)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError) as caught:
            store(path.parent, 2, big, [], {}, newest=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (caught.value.errno, caught.value.strerror) == (errno.EFBIG, os.strerror(errno.EFBIG))
    assert names(path.parent) == [path.name]


def test_ctrl_c_in_the_middle_of_a_write_leaves_nothing_half(save, monkeypatch):
    path = save(1)

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(2)
    assert names(path.parent) == [path.name]


def test_a_moved_folder_loads(save, small, tmp_path):
    save(1)
    expected = [p.clone() for p in small[0].parameters()]
    moved = (tmp_path / "checkpoints").rename(tmp_path / "elsewhere")
    with torch.no_grad():
        small[0].weight.zero_()
    assert load(newest_checkpoint(moved), *small) == {"step": 1, "metrics": {}}
    assert all(torch.equal(p, q) for p, q in zip(small[0].parameters(), expected, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_push_out_nothing(save, small, value):
    path = save(1, keep=1)
    with torch.no_grad():
        small[0].bias[1] = value
    with pytest.raises(NotFiniteError, match="bias has a value that is not finite"):
        save(2, keep=1)
    assert names(path.parent) == [path.name]
    assert newest_checkpoint(path.parent) == path


def test_a_checkpoint_of_another_model_is_refused(save):
    path = save(1)
    other, larger = torch.nn.Linear(4, 2), torch.nn.Linear(3, 2)
    larger.extra = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match=r"another model: weight has shape \[2, 3\]"):
        load(path, other, [])
    with pytest.raises(ValueError, match="another model: it lacks"):
        load(path, larger, [])
