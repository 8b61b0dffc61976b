"""Every command and every piece of Python in the README runs as it stands there, and what it names is there.

What takes minutes (`make demo`, `make test`, recipes at their own size) is left to whoever runs it, but every line that
begins with `rhapsode`, also in prose, has a command and options that exist. The first steps run in full with `-m slow`.
"""

import importlib
import re
import shlex
from pathlib import Path

import pytest
from rhapsode.recipes.cli import COMMANDS, main
from rhapsode.recipes.options.base import UserError, build_parser, parse

ROOT = Path(__file__).parent.parent
README, LOG = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "LOG.md"))
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
LINES = [line for kind, body in BLOCKS if kind == "sh" for line in body.splitlines() if line.startswith("rhapsode ")]
FIRST, *REST = LINES
SNIPPETS = [body for kind, body in BLOCKS if kind == "python"]
SHOWN = [line for _, body in BLOCKS for line in body.splitlines() if line.startswith("rhapsode ")]
PROSE = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
INLINE = [" ".join(code.split()) for code in re.findall(r"`(rhapsode [^`]+)`", PROSE)]
PATH = re.compile(r"(?<![\w./])((?:modeling|tokenization|hub|recipes|tests)/[\w/.-]*\w/?)")
QUICK = ["--dataset", "README.md", "--max_seconds", "1"]  # a second of training on a small text, with everything else


def words(line: str) -> list[str]:
    return shlex.split(line, comments=True)[1:]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A directory with what a clone has, and the model of the README's first command, trained for a second."""
    directory = tmp_path_factory.mktemp("readme")
    for name, text in (("README.md", README), ("LOG.md", LOG)):
        (directory / name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        assert main(words(FIRST) + QUICK) == 0
    return directory


def test_the_commands_of_make_are_there():
    made = set(re.findall(r"\bmake (\S+)$", README, flags=re.MULTILINE))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"install", "demo", "test"} <= made <= targets


@pytest.mark.parametrize("line", REST)
def test_command(line, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    assert main(words(line)) == 0
    assert capsys.readouterr().out.strip() or "pretrain" in line


@pytest.mark.slow
def test_the_first_steps_as_they_are(tmp_path, monkeypatch, capsys):
    """What the model says depends on the machine; that it has learned something does not."""
    monkeypatch.chdir(tmp_path)
    assert main(words(FIRST)) == 0
    bits = float(re.search(r"([\d.]+) bits/byte", capsys.readouterr().err)[1])
    assert bits < 3.0
    assert main(words(REST[0])) == 0
    assert capsys.readouterr().out.startswith("def ")


@pytest.mark.parametrize("code", SNIPPETS)
def test_python(code, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    exec(compile(code, "README.md", "exec"), {})


def options_of(command: str) -> type:
    return getattr(importlib.import_module(f"rhapsode.recipes.options.{command}"), COMMANDS[command].options)


@pytest.mark.parametrize("line", SHOWN)
def test_every_command_that_is_shown_passes_its_own_checks(line, monkeypatch):
    """The files of --config are read; nothing runs."""
    monkeypatch.chdir(ROOT)
    command, *arguments = words(line)
    parse(options_of(command), arguments, f"rhapsode {command}", "")


@pytest.mark.parametrize("line", INLINE)
def test_every_command_in_prose_has_options_that_exist(line):
    command, *arguments = [word.split("|")[0] for word in words(line)]
    if command == "COMMAND":
        return
    _, unknown = build_parser(options_of(command), "rhapsode", "").parse_known_args(arguments)
    assert unknown == []


def test_a_flag_that_there_is_not_would_be_found():
    with pytest.raises(UserError, match="unknown argument --max_step;"):
        parse(options_of("pretrain"), ["--max_step", "20"], "rhapsode pretrain", "")


def test_every_command_is_mentioned():
    assert [name for name in COMMANDS if f"rhapsode {name}" not in README] == []


@pytest.mark.parametrize("text", [README, LOG], ids=["README", "LOG"])
def test_every_file_that_is_named_is_there(text):
    named = set(PATH.findall(text))
    assert len(named) > 2
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_layout_is_that_of_the_folders():
    (layout,) = re.findall(r"^## Layout\n\n```\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    shown = {line.split()[0] for line in layout.splitlines()}
    packages = {f"{path.parent.name}/" for path in ROOT.glob("*/__init__.py")}
    modules = {path.name for path in ROOT.glob("*.py") if path.name != "__init__.py"}
    assert shown == packages | modules | {"tests/"}
