"""Files of a checkpoint that are cut, flipped or gone, data that became shorter, and numbers that are none.

Whatever happened, `--resume` ends with the weights of the run that nobody disturbed, or with exit status 2 and one line
that names the thing. What was finished before stays as it was. Oracle: the undisturbed run, bit for bit.
"""

import json
import math
import random
import shutil
from pathlib import Path

import pytest
import torch
from faults import (
    DAMAGES,
    PREFIXES,
    Sources,
    checkpoints,
    differing,
    finished_runs,
    newest_is_whole,
    resume,
    said_in_one_line,
    weights,
)
from rhapsode.recipes import pretrain
from rhapsode.recipes.cli import run_command
from rhapsode.recipes.trainers.ppo import PPOTrainer
from rhapsode.recipes.training.sealing import damage, newest_whole
from safetensors.torch import load_file, save_file
from small_chats import chats, prompts, write_splits
from trl import SFTTrainer

COMMANDS = ("pretrain", "sft", "ppo")
SLOW = pytest.mark.slow
QUICK = ("pretrain", "sft", pytest.param("ppo", marks=SLOW))
SHORT = ("--max_steps=4", "--save_steps=2")


@pytest.fixture(scope="module")
def sources(tmp_path_factory, corpus, tokenizer_directory) -> Sources:
    return Sources(tmp_path_factory.mktemp("faults"), corpus, tokenizer_directory)


@pytest.fixture(scope="module")
def whole(sources):
    return finished_runs(sources, *SHORT)


@pytest.fixture
def chance(seed) -> random.Random:
    return random.Random(seed)


def unfinished_copy(sources: Sources, directory: Path, name: str) -> Path:
    """As if the process had been killed right after its last checkpoint."""
    copy = sources.root / name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(directory, copy)
    for path in (copy / "model.safetensors", copy / "results.json", *copy.glob("value_model/*")):
        path.unlink(missing_ok=True)
    return copy


def files_of(checkpoint: Path) -> list[str]:
    return sorted(str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file())


def be_damaged(sources, whole, capsys, chance, command: str, name: str, kind: str) -> None:
    """One file of the newest checkpoint: the run goes back to the checkpoint before, and says so."""
    directory, expected = whole(command)
    copy = unfinished_copy(sources, directory, f"{command}-damaged")
    before, newest = checkpoints(copy, command)
    file = newest / name
    if file.stat().st_size == 0 and kind != "deleted":
        return
    DAMAGES[kind](file, chance)
    kept = damage(newest) is None  # a flipped bit in the white space of the manifest
    status, said = resume(sources, command, copy.name, capsys, *SHORT)
    assert status == 0, f"{name} {kind}: {said[-2000:]}"
    assert differing(copy, expected) == [], f"{name} {kind}"
    assert kept or f"{newest} is damaged (" in said, f"{name} {kind}: {said[-2000:]}"
    assert newest_is_whole(copy, command) == 4 and damage(before) is None


@pytest.mark.parametrize("command", QUICK)
def test_a_damaged_file_is_gone_back_behind(sources, whole, capsys, chance, command):
    name = chance.choice(files_of(checkpoints(whole(command)[0], command)[-1]))
    be_damaged(sources, whole, capsys, chance, command, name, chance.choice(list(DAMAGES)))


@SLOW
@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_file_damaged_in_every_way(sources, whole, capsys, chance, command, kind):
    names = files_of(checkpoints(whole(command)[0], command)[-1])
    read = [name for name in names if not name.endswith((".py", ".jinja")) and not name.startswith("tokenizer")]
    for name in set(names) - set(read):  # the code and the tokenizer, which a run has from elsewhere
        copy = unfinished_copy(sources, whole(command)[0], f"{command}-damaged")
        before, newest = checkpoints(copy, command)
        DAMAGES[kind](newest / name, chance)
        with pytest.warns(UserWarning, match=f"{newest.name} is damaged .{name} "):
            assert newest_whole(newest.parent, PREFIXES[command]) == before
    for name in read:
        be_damaged(sources, whole, capsys, chance, command, name, kind)
    with capsys.disabled():
        print(f"\n{command}: {len(names)} files {kind}, each found; of {len(read)} the same weights in the end")


@SLOW
@pytest.mark.parametrize("command", COMMANDS)
def test_all_checkpoints_damaged(sources, whole, capsys, chance, command):
    """Each is named; the run begins anew, which ends where it would have."""
    directory, expected = whole(command)
    copy = unfinished_copy(sources, directory, f"{command}-damaged")
    for path in checkpoints(copy, command):
        name = chance.choice([name for name in files_of(path) if (path / name).stat().st_size])
        DAMAGES["truncated"](path / name, chance)
    status, said = resume(sources, command, copy.name, capsys, *SHORT)
    assert status == 0 and said.count("is damaged (") == 2 and "starting at step 0" in said, said[-2000:]
    assert differing(copy, expected) == []


BESIDE = {"config_resolved.yaml", "metrics.jsonl", "run.json", "tokenizer.json", "tokenizer_config.json"}


@SLOW
@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("command", COMMANDS)
def test_files_beside_the_checkpoints(sources, whole, capsys, chance, command, kind):
    """The same weights, or a line that says what is wrong."""
    directory, expected = whole(command)
    outcomes = []
    for name in sorted(BESIDE):
        copy = unfinished_copy(sources, directory, f"{command}-damaged")
        DAMAGES[kind](copy / name, chance)
        status, said = resume(sources, command, copy.name, capsys, *SHORT)
        if status:
            said_in_one_line(status, said, command)
        else:
            assert differing(copy, expected) == [], f"{name} {kind}"
        assert newest_is_whole(copy, command) == 4
        outcomes.append(f"{name} {'refused' if status else 'same weights'}")
    with capsys.disabled():
        print(f"\n{command}, {kind}: {', '.join(outcomes)}")


# Data that became shorter


def shortened(sources: Sources, command: str, directory: Path) -> str:
    """A copy of the run's data at `directory`, whole; what its training rows lie in is `shorten`'s."""
    if command == "pretrain":
        shutil.copytree(sources.corpus, directory)
    else:
        write_splits(directory, chats() if command == "sft" else prompts())
    return f"--dataset={directory}"


def shorten(command: str, directory: Path) -> None:
    if command == "pretrain":
        text = (directory / "textwrap.py").read_text(encoding="utf-8")
        (directory / "textwrap.py").write_text(text[: len(text) // 2], encoding="utf-8")
    else:
        lines = (directory / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (directory / "train.jsonl").write_text("".join(lines[:-3]), encoding="utf-8")


@pytest.mark.parametrize("command", [*QUICK, pytest.param("stream", marks=SLOW)])
def test_a_dataset_that_became_shorter_is_refused(sources, capsys, tmp_path, command):
    streams = ("--streaming",) if command == "stream" else ()
    command = "pretrain" if streams else command
    data = shortened(sources, command, tmp_path / "data")
    name = f"{command}-short{len(streams)}"
    changes = (*SHORT, *streams, data)
    assert run_command(command, sources.arguments(command, name, *changes)) == 0
    expected, directory = weights(sources.root / name), sources.root / name
    (directory / "results.json").unlink()
    shorten(command, tmp_path / "data")
    line = said_in_one_line(*resume(sources, command, name, capsys, *changes), command)
    assert "--dataset" in line and "start a new run" in line
    assert differing(directory, expected) == []  # and what was finished is still there
    assert newest_is_whole(directory, command) == 4


def test_other_weights_to_start_from_are_refused(sources, capsys, tmp_path):
    """Under the same name: they would be another base of the adapter. Written once more they are the same."""
    changes = (*SHORT, "--use_peft", f"--model={shutil.copytree(sources.model, tmp_path / 'base')}")
    assert run_command("sft", sources.arguments("sft", "sft-base", *changes)) == 0
    expected, directory = weights(sources.root / "sft-base"), sources.root / "sft-base"
    file, content = tmp_path / "base" / "model.safetensors", load_file(tmp_path / "base" / "model.safetensors")
    shutil.copy2(file, tmp_path / "copy")
    shutil.copy(tmp_path / "copy", file)
    unfinished_copy(sources, directory, "sft-rewritten")
    assert resume(sources, "sft", "sft-rewritten", capsys, *changes)[0] == 0
    assert differing(sources.root / "sft-rewritten", expected) == []
    save_file({name: 1.01 * tensor for name, tensor in content.items()}, file, {"format": "pt"})
    line = said_in_one_line(*resume(sources, "sft", "sft-base", capsys, *changes), "sft")
    assert "--resume with other files of --model than" in line and "start a new run" in line
    assert differing(directory, expected) == []


def test_another_number_of_processes_is_refused(sources, whole, capsys):
    """transformers would pass over the random states that it does not find."""
    directory, _ = whole("sft")
    copy = unfinished_copy(sources, directory, "sft-processes")
    for path in checkpoints(copy, "sft"):
        identity = json.loads((path / "identity.json").read_text()) | {"processes": 2}
        (path / "identity.json").write_text(json.dumps(identity))
        manifest = json.loads((path / "manifest.json").read_text())
        manifest.pop("identity.json")
        (path / "manifest.json").write_text(json.dumps(manifest))
    line = said_in_one_line(*resume(sources, "sft", copy.name, capsys, *SHORT), "sft")
    assert "--resume with other processes" in line and "(1 in place of 2)" in line


# Numbers that are none


def poison_once(monkeypatch, command: str, step: int, poison) -> None:
    """`poison(model)` is called between the backward pass and the update after `step` others."""
    if command == "pretrain":
        update = pretrain.update

        def poisoned(current, loss, is_logged):
            if current.progress.step == step:
                poison(current.model)
            return update(current, loss, is_logged)

        monkeypatch.setattr(pretrain, "update", poisoned)
        return
    trainer_class = {"sft": SFTTrainer, "ppo": PPOTrainer}[command]
    training_step = trainer_class.training_step

    def poisoned(self, model, *args, **kwargs):
        loss = training_step(self, model, *args, **kwargs)
        if self.state.global_step == step:
            poison(self.accelerator.unwrap_model(self.model))
        return loss

    monkeypatch.setattr(trainer_class, "training_step", poisoned)


def poison_gradient(model) -> None:
    next(p for p in model.parameters() if p.grad is not None).grad.view(-1)[0] = math.nan


@torch.no_grad()
def poison_weight(model) -> None:
    next(model.parameters()).view(-1)[0] = math.nan


@pytest.mark.parametrize("command", QUICK)
def test_a_gradient_that_is_none_costs_one_step(sources, capsys, monkeypatch, command):
    poison_once(monkeypatch, command, 2, poison_gradient)
    name = f"{command}-gradient"
    assert run_command(command, sources.arguments(command, name, *SHORT)) == 0
    directory = sources.root / name
    assert all(tensor.isfinite().all() for tensor in weights(directory).values())
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    counts = [row[key] for row in rows for key in ("skipped_steps", "policy/skipped_steps") if key in row]
    assert counts[-1] == 1


@pytest.mark.parametrize("command", QUICK)
def test_a_weight_that_is_none_pushes_out_no_checkpoint(sources, whole, capsys, monkeypatch, command):
    """The run ends with a line; without the fault it goes on from before, to the same weights."""
    name, (_, expected) = f"{command}-weight", whole(command)
    poison_once(monkeypatch, command, 3, poison_weight)
    assert run_command(command, sources.arguments(command, name, *SHORT)) == 2
    said = capsys.readouterr().err
    assert "not finite" in said_in_one_line(2, said, command), said[-2000:]
    directory = sources.root / name
    assert not (directory / "model.safetensors").exists() and newest_is_whole(directory, command) == 2
    monkeypatch.undo()
    assert resume(sources, command, name, capsys, *SHORT)[0] == 0
    assert differing(directory, expected) == []
