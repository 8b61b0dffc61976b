"""The command line: what is loaded, what is printed where, and the exit status."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from rhapsode import __version__
from rhapsode.recipes import cli
from rhapsode.recipes.cli import COMMANDS, main, run_command
from rhapsode.recipes.options.base import UserError

HELP_SECONDS = 5.0  # of all commands, on a busy machine; torch and transformers alone take longer
ONE_HELP_SECONDS = 1.0  # best of three
HELP_OF_EVERYTHING = """
import contextlib, io, sys
from rhapsode.recipes.cli import COMMANDS, main
from rhapsode.recipes.options.base import parse
for arguments in ([], ["--help"], ["-h"], ["--version"], ["pretrian"]):
    main(arguments)
for name in COMMANDS:
    try:
        main([name, "--help"])
    except SystemExit as stop:
        assert stop.code == 0, name
    assert main([name, "--nonsense"]) == 2
heavy = {"torch", "transformers", "numpy", "datasets", "accelerate", "tokenizers"} & set(sys.modules)
print("LOADED", sorted(heavy))
"""


@pytest.fixture
def recipe(monkeypatch):
    """`recipe(work)` puts `work` in place of the recipe of `rhapsode presets`."""

    def put(work):
        module = ModuleType("rhapsode.recipes.presets")
        module.run = work
        monkeypatch.setitem(sys.modules, "rhapsode.recipes.presets", module)

    return put


def fail(error):
    def work(options):
        raise error

    return work


def test_help_of_every_command_loads_nothing_heavy_and_answers_at_once(tmp_path):
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", HELP_OF_EVERYTHING], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("LOADED []\n")
    assert time.perf_counter() - start < HELP_SECONDS
    for name in COMMANDS:
        assert f"usage: rhapsode {name} " in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["ppo", "--help"]])
def test_one_help_takes_less_than_a_second(arguments, tmp_path):
    """From the start of the process; `ppo` has the most options."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "rhapsode.recipes.cli", *arguments], capture_output=True, cwd=tmp_path, check=True
        )
        taken.append(time.perf_counter() - start)
    assert min(taken) < ONE_HELP_SECONDS, taken


def test_the_overview_names_every_command(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        shown = capsys.readouterr().out
        for name, command in COMMANDS.items():
            assert any(line.split() == [name, *command.summary.split()] for line in shown.splitlines())


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rhapsode {__version__}\n"


def test_the_command_line_is_where_main_looks_by_default(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rhapsode", "--version"])
    assert main() == 0


@pytest.mark.parametrize(
    ("name", "hint"), [("pretrian", "did you mean 'pretrain'?"), ("xyzzy", "see rhapsode --help"), ("", "see")]
)
def test_an_unknown_command(capsys, name, hint):
    assert main([name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"rhapsode: unknown command {name!r}; {hint}")
    assert err.count("\n") == 1


def test_options_arrive_and_success_is_0(recipe, capsys):
    seen = []
    recipe(seen.append)
    assert main(["presets", "gpt2", "--json"]) == 0
    assert (seen[0].names, seen[0].json) == (["gpt2"], True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_flag_that_there_is_not_is_2_and_one_line(capsys, name):
    assert run_command(name, ["--outptu_dir", "x"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"rhapsode {name}: unknown argument --outptu_dir; ")
    assert err.count("\n") == 1


def test_what_the_user_can_mend_is_2_and_one_line(recipe, capsys):
    recipe(fail(UserError("several\n   lines, \n from a library\n")))
    assert main(["presets"]) == 2
    assert capsys.readouterr() == ("", "rhapsode presets: several lines, from a library\n")


def test_ctrl_c_is_130(recipe, capsys):
    recipe(fail(KeyboardInterrupt()))
    assert main(["presets"]) == 130
    assert capsys.readouterr() == ("", "rhapsode presets: stopped\n")


def test_our_own_mistakes_keep_their_traceback(recipe):
    recipe(fail(ZeroDivisionError("ours")))
    with pytest.raises(ZeroDivisionError):
        main(["presets"])


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_goes_away_is_no_error(tmp_path, lines):
    """`rhapsode presets | head`, with output below and above what a pipe holds."""
    script = (
        "import sys, types\n"
        "module = sys.modules['rhapsode.recipes.presets'] = types.ModuleType('presets')\n"
        f"module.run = lambda options: [print('line') for _ in range({lines})]\n"
        "from rhapsode.recipes.cli import main\n"
        "sys.exit(main(['presets']))\n"
    )
    read, write = os.pipe()
    os.close(read)  # nobody listens
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    process = subprocess.run(
        [sys.executable, "-c", script], stdout=write, stderr=subprocess.PIPE, cwd=tmp_path, env=buffered, check=False
    )
    os.close(write)
    assert (process.returncode, process.stderr) == (0, b"")


def test_every_command_has_a_recipe_and_says_what_it_does():
    for name, command in COMMANDS.items():
        assert Path(cli.__file__).with_name(f"{name}.py").is_file(), name
        assert len(command.summary) > 10
