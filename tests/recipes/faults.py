"""What the tests of faults share: small runs of three commands, ways to harm them, and what must come out.

a run        pretrain, SFT or PPO on little data, with dropout and a checkpoint every few steps
a fault      SIGKILL at a moment of its own choosing, a file that is cut, flipped or gone, no room on the disk
the oracle   the weights of the run that nobody disturbed, bit for bit, or exit status 2 with one line
"""

import contextlib
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rhapsode.recipes.cli import run_command
from rhapsode.recipes.training.sealing import damage, numbered
from safetensors.torch import load_file
from small_chats import chats, prompts, save_model, write_splits
from training_processes import CONTEXT, Training

CONTEXT.set_forkserver_preload(["rhapsode.recipes.pretrain", "rhapsode.recipes.sft", "rhapsode.recipes.ppo"])
PREFIXES = {"pretrain": "step-", "sft": "checkpoint-", "ppo": "checkpoint-"}
WRITES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")  # audit events, beside `open` for writing
REWARDS = """def vowels(prompts, completions, **kwargs):
    return [sum(letter in "aeiou" for letter in c[0]["content"]) / 4 for c in completions]
"""
PATIENCE = 240  # seconds for a run that takes some


@dataclass
class Sources:
    """Where the runs get their data from, and where they go."""

    root: Path
    corpus: Path
    tokenizer: Path

    def __post_init__(self):
        (self.root / "rewards.py").write_text(REWARDS, encoding="utf-8")
        self.model = save_model(self.root / "base", self.tokenizer)
        self.chats = write_splits(self.root / "chats", chats())
        self.prompts = write_splits(self.root / "prompts", prompts())

    def arguments(self, command: str, name: str, *changes: str) -> list[str]:
        """Of a run of eight steps, each with a checkpoint; a rate that ended at 0 would hide a step too many."""
        settings = {"output_dir": self.root / name, "max_steps": 8, "logging_steps": 1, "save_steps": 1}
        settings |= {"save_total_limit": 2, "learning_rate": 1e-3, "lr_scheduler_type": "constant"}
        if command == "pretrain":
            settings |= {"preset": "rhapsode-10m-tiny", "dataset": self.corpus, "tokenizer": self.tokenizer}
            settings |= {"data_cache": self.root / "shards", "max_length": 48, "per_device_train_batch_size": 4}
            settings |= {"sample_tokens": 2, "max_eval_tokens": 200, "final_eval_tokens": 200, "eval_steps": 1000}
            settings |= {"config_overrides": "residual_dropout=0.1"}
            changes = ("--no-track_energy", *changes)
        else:
            settings |= {"model": self.model, "eval_steps": 1000, "eval_prompts": 0, "max_eval_samples": 2}
            settings |= {"dataset": self.chats, "per_device_train_batch_size": 2}
        if command == "ppo":
            settings |= {
                "dataset": self.prompts,
                "reward_funcs": f"{self.root / 'rewards.py'}:vowels",
                "max_completion_length": 6,
            }
            settings |= {"num_iterations": 2, "steps_per_generation": 2, "kl_target": 0.1, "kl_horizon": 50}
        return [f"--{key}={value}" for key, value in settings.items()] + ["--no-bf16", *changes]

    def start(self, command: str, name: str, *changes: str, count: int = 1, before=None) -> Training:
        log = self.root / f"{name}.log"
        return Training(self.arguments(command, name, *changes), log, count, command=command, before=before)

    def finish(self, command: str, name: str, *changes: str, count: int = 1) -> Path:
        training = self.start(command, name, *changes, count=count)
        assert set(training.wait(PATIENCE)) == {0}, training.said()[-4000:]
        return self.root / name


def weights(directory: Path) -> dict[tuple[int, str], torch.Tensor]:
    """Of the model that a finished run has left, and of PPO's value model."""
    files = [directory / "model.safetensors", *directory.glob("value_model/*.safetensors")]
    return {(i, name): tensor for i, file in enumerate(files) for name, tensor in load_file(file).items()}


def learned(sources: Sources, command: str, directory: Path) -> dict[tuple[int, str], torch.Tensor]:
    """The weights of a finished run, which must be others than those that it began with: or equality says nothing."""
    found = weights(directory)
    if command != "pretrain":
        before = load_file(f"{sources.model}/model.safetensors")
        assert all(not torch.equal(found[0, name], before[name]) for name in before if name.endswith("proj.weight"))
    return found


def differing(directory: Path, expected: dict) -> list[tuple[int, str]]:
    """Names of the tensors that are not equal bit for bit; all that only one of the two has."""
    found = weights(directory)
    different = [k for k in expected if k not in found or not torch.equal(found[k], expected[k])]
    return different + [key for key in found if key not in expected]


def checkpoints(directory: Path, command: str) -> list[Path]:
    return numbered(directory / "checkpoints", PREFIXES[command])


def newest_is_whole(directory: Path, command: str) -> int:
    """The step of the newest checkpoint, which must be whole; -1 if there is none."""
    found = checkpoints(directory, command)
    if not found:
        return -1
    assert damage(found[-1]) is None, f"{found[-1]}: {damage(found[-1])}"
    return int(found[-1].name.rpartition("-")[2])


def half_written(directory: Path) -> set[tuple[str, int]]:
    """The checkpoints that are being written, or were when a process was killed; another write is another one."""
    found = set()
    for path in directory.glob(".unfinished-*"):
        with contextlib.suppress(FileNotFoundError):  # it has just been finished
            found.add((path.name, path.stat().st_mtime_ns))
    return found


class KillAtOperation:
    """In the process to be killed: SIGKILL at the nth time that Python touches a file below `directory`."""

    def __init__(self, directory: Path, number: int):
        self.directory, self.left = str(directory), number

    def __call__(self) -> None:
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple) -> None:
        is_write = event == "open" and isinstance(arguments[1], str) and arguments[1][:1] in "wax"
        if not (is_write or event in WRITES) or not str(arguments[0]).startswith(self.directory):
            return
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Campaign:
    """Kills a run again and again, each time in another way, and goes on with `--resume` until it is through."""

    def __init__(self, sources: Sources, command: str, count: int):
        self.sources, self.command, self.count = sources, command, count
        start = time.monotonic()
        self.expected = learned(sources, command, sources.finish(command, f"{command}-{count}-whole", count=count))
        self.seconds = time.monotonic() - start  # that an undisturbed run takes
        self.kills, self.within_writes, self.round = 0, 0, 0

    def run(self, kills: int) -> None:
        """So many kills; a run that gets through is compared, and another one begun."""
        while self.kills < kills:
            self.round += 1
            name, newest = f"{self.command}-{self.count}-killed-{self.round}", -1
            directory = self.sources.root / name
            while not (directory / "results.json").exists():
                self._attempt(name, directory, may_kill=self.kills < kills)
                step = newest_is_whole(directory, self.command)
                assert step >= newest, "a finished checkpoint was lost"
                newest = step
            assert differing(directory, self.expected) == []
            assert not list((directory / "checkpoints").glob(".unfinished*"))

    def _attempt(self, name: str, directory: Path, may_kill: bool) -> None:
        way = random.choice(("moment", "writing", "operation")) if may_kill else None
        below = directory / "checkpoints"
        old = half_written(below)  # what an earlier kill left, which the next write deletes
        before = KillAtOperation(below, random.randint(1, 60)) if way == "operation" else None
        training = self.sources.start(self.command, name, "--resume", count=self.count, before=before)
        start, moment = time.monotonic(), random.uniform(0, self.seconds)
        lucky, was_killed = random.random() * 0.3, False
        while training.is_running and not was_killed:
            assert time.monotonic() < start + PATIENCE, training.said()[-4000:]
            is_writing = bool(half_written(below) - old)
            by_us = (way == "moment" and time.monotonic() - start > moment) or (
                way == "writing" and is_writing and random.random() < lucky
            )
            by_itself = any(process.exitcode == -signal.SIGKILL for process in training.processes)
            if by_us or by_itself:
                was_killed = True
                training.kill()
            time.sleep(0.001)
        statuses = training.wait(PATIENCE)
        was_killed = -signal.SIGKILL in statuses  # the others may have noticed before they were killed too
        assert was_killed or set(statuses) == {0}, training.said()[-4000:]
        if was_killed:
            self.kills += 1
            self.within_writes += bool(half_written(below) - old)


def flip(path: Path, chance: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    path.write_bytes(raw)


def truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


# The chance is the test's own: a run in the same process seeds all the others.
DAMAGES = {"truncated": truncate, "bit flipped": flip, "deleted": lambda path, chance: path.unlink()}


def resume(sources: Sources, command: str, name: str, capsys, *changes: str) -> tuple[int, str]:
    """The run goes on in this process: (its exit status, its warnings and what it said on stderr)."""
    from rhapsode.recipes.cli import run_command

    capsys.readouterr()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        status = run_command(command, [*sources.arguments(command, name, *changes), "--resume"])
    return status, "\n".join([*(str(warning.message) for warning in warned), capsys.readouterr().err])


def said_in_one_line(status: int, said: str, command: str) -> str:
    """The line of a refusal, which must be the last one and the only one of its kind."""
    assert status == 2, said[-2000:]
    assert "Traceback" not in said
    refusals = [line for line in said.splitlines() if line.startswith(f"rhapsode {command}: ")]
    assert len(refusals) == 1, said[-2000:]
    return refusals[0]


def finished_runs(sources: Sources, *flags: str) -> Callable[[str], tuple[Path, dict]]:
    """A finished run of a command, made when it is first asked for, and its weights."""
    made = {}

    def find(command: str) -> tuple[Path, dict]:
        if command not in made:
            assert run_command(command, sources.arguments(command, f"{command}-whole", *flags)) == 0
            directory = sources.root / f"{command}-whole"
            made[command] = directory, learned(sources, command, directory)
        return made[command]

    return find
