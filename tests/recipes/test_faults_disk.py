"""A disk that is full, at a random moment: exit status 2 and one line, and what was finished is still there.

Then there is room again, and the run ends with the weights of the one that nobody disturbed, bit for bit. The disk is a
tmpfs, where it may be mounted; a limit on the size of a file, which fails in the same places, does everywhere.
"""

import random
import resource
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults import Sources, checkpoints, differing, finished_runs, newest_is_whole, resume, said_in_one_line
from rhapsode.recipes.cli import run_command

COMMANDS = ("pretrain", "sft", "ppo")
STEPS = 4
SHORT = (f"--max_steps={STEPS}", "--save_total_limit=100")
SIZES = 6  # of the disk, drawn for each command
ROOM = 2**28


@pytest.fixture(scope="module")
def sources(tmp_path_factory, corpus, tokenizer_directory) -> Sources:
    return Sources(tmp_path_factory.mktemp("disk"), corpus, tokenizer_directory)


@pytest.fixture(scope="module")
def whole(sources):
    return finished_runs(sources, *SHORT)


class Disk:
    """A tmpfs whose size can be changed."""

    def __init__(self, path: Path):
        self.path = path
        path.mkdir()
        try:
            done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(path)], capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("no `mount` on this machine")
        if done.returncode:
            pytest.skip(f"a tmpfs may not be mounted here: {done.stderr.strip()}")

    def resize(self, size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], check=True)

    def clear(self) -> None:
        for path in self.path.iterdir():
            shutil.rmtree(path)

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path / "disk")
    yield made
    made.unmount()


def size_of(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*"))


def is_refused(command: str, capsys, arguments: list[str]) -> bool:
    """Whether there was too little room; no other outcome is allowed."""
    capsys.readouterr()
    status = run_command(command, arguments)
    said = capsys.readouterr().err
    if status:
        assert any(why in said_in_one_line(status, said, command) for why in ("No space", "disk full", "too large"))
    return bool(status)


def fill(disk: Disk, sources: Sources, whole, capsys, chance: random.Random, command: str) -> str:
    directory, expected = whole(command)
    run = disk.path / "run"
    disk.resize(chance.randint(size_of(directory) // 10, size_of(directory) * 11 // 10))
    arguments = (*SHORT, f"--output_dir={run}")
    refused = is_refused(command, capsys, sources.arguments(command, "run", *arguments))
    step = newest_is_whole(run, command)
    disk.resize(ROOM)
    if refused:
        status, said = resume(sources, command, "run", capsys, *arguments)
        assert status == 0, said[-2000:]
    assert differing(run, expected) == []
    disk.clear()
    return f"after step {max(step, 0)}" if refused else "not at all"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk(disk, sources, whole, capsys, seed, command):
    chance = random.Random(seed)  # the run seeds the module's own
    moments = [fill(disk, sources, whole, capsys, chance, command) for _ in range(SIZES)]
    with capsys.disabled():
        print(f"\n{command}: the disk was full {', '.join(sorted(moments))}; then the same weights")


@contextmanager
def limited(size: int):
    """No file may become larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("command", ["sft", *(pytest.param(c, marks=pytest.mark.slow) for c in ("pretrain", "ppo"))])
def test_a_file_that_may_not_be_written(sources, whole, capsys, seed, command):
    directory, expected = whole(command)
    copy = sources.root / f"{command}-limited"
    shutil.copytree(directory, copy)
    for path in [*checkpoints(copy, command)[1:], copy / "model.safetensors", copy / "results.json"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    largest = max(path.stat().st_size for path in checkpoints(copy, command)[0].iterdir())
    with limited(random.randint(50_000, largest - 1)):
        assert is_refused(command, capsys, [*sources.arguments(command, copy.name, *SHORT), "--resume"])
    assert newest_is_whole(copy, command) == 1
    status, said = resume(sources, command, copy.name, capsys, *SHORT)
    assert status == 0, said[-2000:]
    assert differing(copy, expected) == []
