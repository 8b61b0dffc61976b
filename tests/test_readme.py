"""Every command and every piece of Python in the README runs as it stands there.

`make demo` and `make test` are left to whoever runs this; a small model takes the place of the demo's.
"""

import re
import shlex
from pathlib import Path

import pytest
from rhapsode.recipes.cli import COMMANDS, main
from rhapsode.recipes.options.pretrain import PretrainOptions
from rhapsode.recipes.pretrain import run

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
LINES = [line for kind, body in BLOCKS if kind == "sh" for line in body.splitlines() if line.startswith("rhapsode ")]
SNIPPETS = [body for kind, body in BLOCKS if kind == "python"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A directory with a text file and a small model where the demo leaves its own."""
    directory = tmp_path_factory.mktemp("readme")
    (directory / "book.txt").write_text("".join(f"Line {i} of a book.\n" for i in range(4000)))
    options = PretrainOptions(
        preset="rhapsode-10m-tiny",
        dataset=[str(directory / "book.txt")],
        vocab_size=300,
        max_length=128,
        max_steps=3,
        output_dir=str(directory / "runs" / "demo" / "model"),
    )
    run(options)
    return directory


def test_the_two_setup_commands_are_there():
    blocks = [body.split() for kind, body in BLOCKS if kind == "sh"]
    assert ["make", "demo"] in blocks or ["make", "demo", "make", "test"] in blocks
    assert "make test" in README


@pytest.mark.parametrize("line", LINES)
def test_command(line, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    assert main(shlex.split(line, comments=True)[1:]) == 0
    assert capsys.readouterr().out.strip() or "pretrain" in line


@pytest.mark.parametrize("code", SNIPPETS)
def test_python(code, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    exec(compile(code, "README.md", "exec"), {})


def test_every_command_is_mentioned():
    assert [name for name in COMMANDS if f"rhapsode {name}" not in README] == []
