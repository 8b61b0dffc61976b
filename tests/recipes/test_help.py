"""What --help prints: a page by section, and examples that are commands."""

import dataclasses
import importlib
import shlex
from dataclasses import dataclass

import pytest
from rhapsode.recipes.cli import COMMANDS
from rhapsode.recipes.options.base import build_parser, option, parse
from rhapsode.recipes.options.help import ARGUMENTS, NO_SECTION, sections

LONGEST_SECTION = 18  # lines that are read in one look


@dataclass
class Trained:
    """Not shown."""

    EXAMPLES = ("rhapsode other",)

    model: str = option("", "which", section="model")
    seed: int = option(0, "of draws")
    dataset: list[str] = option([], "what", section="data")  # noqa: RUF009
    max_bytes: int | None = option(1_000_000_000, "how much of it")
    json: bool | None = option(None, "as JSON", section="watching")


@dataclass
class Rewarded(Trained):
    """Learn from rewards, 100% of them."""

    EXAMPLES = ("rhapsode test a.txt --beta 1", "rhapsode test --resume")

    names: list[str] = option([], "which", positional=True)  # noqa: RUF009
    seed: int = option(7, "of rollouts")
    beta: float = option(0.5, "how strongly", section="the penalty")
    packing: bool = option(False, "densely", section="data")


HELP = """usage: rhapsode test [names ...] [--config FILE.yaml] [--option VALUE ...]

Learn from rewards, 100% of them.

examples:
  rhapsode test a.txt --beta 1
  rhapsode test --resume

arguments:
  names               which (default: none)

model:
  --model STR         which (default: "")
  --seed INT          of rollouts (default: 7)

the penalty:
  --beta FLOAT        how strongly (default: 0.5)

data:
  --dataset STR ...   what (default: none)
  --max_bytes INT     how much of it (default: 1_000_000_000)
  --packing           densely (default: off)

watching:
  --json, --no-json   as JSON (default: none)

general:
  --config FILE.yaml  these options in YAML; flags override them, and --no-NAME turns off what the file turns
                      on
  -h, --help          print this
"""


def test_help_is_a_page_by_section(capsys, monkeypatch):
    """A class's own sections come after the one that says what is run, and what it adds goes where it says."""
    monkeypatch.setenv("COLUMNS", "200")  # it is no wider than its widest; narrower terminals break lines earlier
    with pytest.raises(SystemExit) as caught:
        parse(Rewarded, ["--help"], "rhapsode test", Rewarded.__doc__)
    assert caught.value.code == 0
    assert capsys.readouterr().out == HELP


def options_classes() -> list[type]:
    return [
        getattr(importlib.import_module(f"rhapsode.recipes.options.{name}"), c.options) for name, c in COMMANDS.items()
    ]


@pytest.mark.parametrize("options_class", options_classes(), ids=lambda c: c.__name__)
def test_the_help_of_every_command_is_divided_and_has_examples(options_class):
    parts = sections(options_class)
    names = [field.name for field in dataclasses.fields(options_class)]
    assert sorted(name for part in parts.values() for name in part) == sorted(names)
    assert max(map(len, parts.values())) <= LONGEST_SECTION, parts
    if NO_SECTION in parts:  # all fields or none
        assert set(parts) <= {ARGUMENTS, NO_SECTION}
    assert 1 <= len(options_class.EXAMPLES) <= 4
    assert "EXAMPLES" in vars(options_class), "of its own"


@pytest.mark.parametrize(
    ("options_class", "line"),
    [(c, line) for c in options_classes() for line in c.EXAMPLES],
    ids=lambda value: str(value),
)
def test_every_example_is_a_command_that_parses(options_class, line):
    program, command, *arguments = shlex.split(line)
    assert program == "rhapsode"
    assert COMMANDS[command].options == options_class.__name__
    given, unknown = build_parser(options_class, "rhapsode", "").parse_known_args(arguments)
    assert unknown == []
    if given.__dict__.pop("config", None) is None:
        options_class(**vars(given))  # and its own checks pass
