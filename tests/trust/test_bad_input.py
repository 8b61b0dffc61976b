"""Bad input of every kind: exit status 2, one line that says what is wrong and what to do, nothing written."""

import hashlib
import io
import logging
import os
import shlex
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest
from rhapsode import RhapsodeConfig
from rhapsode.recipes.cli import COMMANDS, main
from rhapsode.recipes.data.readers import COMPRESSIONS, READERS

from .bad import Bad, prepare
from .rows_checkpoints import CHECKPOINTS
from .rows_configuration import CONFIGURATION
from .rows_data import DATA
from .rows_exports import EXPORTS
from .rows_files import FILES_AND_DIRECTORIES
from .rows_numbers import NUMBERS
from .rows_tokenizers import TOKENIZERS
from .rows_words import WORDS

ROOMS = {
    "numbers": NUMBERS,
    "words": WORDS,
    "files": FILES_AND_DIRECTORIES,
    "configuration": CONFIGURATION,
    "data": DATA,
    "tokenizers": TOKENIZERS,
    "checkpoints": CHECKPOINTS,
    "exports": EXPORTS,
}
ROWS = [row for rows in ROOMS.values() for row in rows]
IDS = [f"{room}: {row.command}, {row.name}" for room, rows in ROOMS.items() for row in rows]
LEAST_ROWS, LEAST_OF_A_COMMAND = 150, 3
OWN_FIELDS = {name for name, kind in RhapsodeConfig.__annotations__.items() if "ClassVar" not in str(kind)}


def content(*roots: Path) -> dict[Path, str]:
    """The hash of every file below the roots, and every directory."""
    found = [path for root in roots for path in sorted(root.rglob("*"))]
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "directory" for p in found}


def typed(row: Bad, place: dict[str, str]) -> list[str]:
    return [word.format(**place) for word in shlex.split(row.argv)]


def check(row: Bad, status: int, err: str) -> None:
    assert status == 2, err
    assert "Traceback" not in err
    assert err.endswith("\n"), err
    assert err.count("\n") == 1, err
    for words in row.says:
        assert words in err, f"{words!r} is not in {err!r}"


@pytest.fixture
def as_in_a_terminal(monkeypatch):
    """Offline, nothing typed, and loggers and warnings that write to what is standard error now."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    for logger in [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]:
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:
                monkeypatch.setitem(handler.__dict__, "stream", sys.stderr)
                monkeypatch.delitem(
                    handler.__dict__, "flush", raising=False
                )  # transformers puts that of its first there
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        warnings.showwarning = lambda *a, **k: print(warnings.formatwarning(*a[:4]), file=sys.stderr)
        yield


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_bad_input(row, place, tmp_path, monkeypatch, capfd, as_in_a_terminal):
    if row.needs:
        pytest.importorskip(row.needs)
    prepare(row, tmp_path, place)
    monkeypatch.chdir(tmp_path)
    before = content(tmp_path, Path(place["root"]))
    capfd.readouterr()
    status = main(typed(row, place))
    check(row, status, capfd.readouterr().err)
    assert content(tmp_path, Path(place["root"])) == before


def run_apart(row: Bad, place: dict[str, str], here: Path) -> None:
    """The same in a process of its own, as a user has it."""
    if row.needs:
        pytest.importorskip(row.needs)
    prepare(row, here, place)
    before = content(here)
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    program = [sys.executable, "-m", "rhapsode.recipes.cli", *typed(row, place)]
    done = subprocess.run(program, capture_output=True, text=True, cwd=here, env=environment, check=False, input="")
    check(row, done.returncode, done.stderr)
    assert content(here) == before


@pytest.mark.parametrize("row", ROWS[:: len(ROWS) // 2][:2], ids=IDS[:: len(ROWS) // 2][:2])
def test_bad_input_in_a_process_of_its_own(row, place, tmp_path):
    run_apart(row, place, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_all_bad_input_in_processes_of_their_own(row, place, tmp_path):
    run_apart(row, place, tmp_path)


def test_the_table_leaves_nothing_out():
    assert len(ROWS) >= LEAST_ROWS
    assert len(set(IDS)) == len(ROWS)
    of_commands = Counter(row.command for row in ROWS)
    assert [name for name in COMMANDS if of_commands[name] < LEAST_OF_A_COMMAND] == []
    overridden = " ".join(row.argv for row in CONFIGURATION)
    assert [name for name in sorted(OWN_FIELDS) if f"{name}=" not in overridden] == []
    files = [name for row in DATA for name in row.files]
    for suffix in (*READERS, *COMPRESSIONS):
        assert any(name.endswith(suffix) for name in files), suffix
    assert [row.name for row in ROWS if not row.says] == []
