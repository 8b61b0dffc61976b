"""What the package imports is what it installs, by its own files: not what some other package happens to bring along.

A name that a module imports at its top must be in `dependencies`, or in the extra of the commands that the module is
for; a name imported inside a function must be in some extra, or be asked for in one line where it is missing.
"""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from rhapsode.recipes.cli import EXTRAS, main

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FILES = [ROOT / "__init__.py", ROOT / "trainers.py"]
FILES += [path for folder in ("modeling", "tokenization", "hub", "recipes") for path in (ROOT / folder).rglob("*.py")]
# Not in any extra: what they need of the machine, or their size, is the user's decision; all are asked for by name.
ASKED_FOR = {"zstandard", "liger_kernel", "torchao"}
CALLED_BY = {"vllm"}  # imports us, and is therefore there
BROUGHT_BY_DATASETS = {"pyarrow", "pandas"}
GUARDED = {"rich"}  # is_rich_available
MEASURED = {"litgpt", "lightning", "llama_cpp"}  # peers of `rhapsode bench`, which says which are not installed


def imports(path: Path):
    """(top-level name, whether the module cannot be imported without it) of each import that is not ours."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        yield from ((n.partition(".")[0], node in tree.body) for n in names)


def normal(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def distributions(name: str) -> set[str]:
    return {normal(found) for found in installed().get(name, [name])}


@cache
def installed() -> dict[str, list[str]]:
    """Distributions by the name that is imported; reading them takes a second."""
    return packages_distributions()


DEPENDENCIES = {normal(r) for r in PROJECT["project"]["dependencies"]}
OPTIONAL = {extra: {normal(r) for r in rs} for extra, rs in PROJECT["project"]["optional-dependencies"].items()}


def test_everything_imported_is_declared():
    users = {extra: names for extra, names in OPTIONAL.items() if extra != "test"}  # `test` is for who works on this
    in_extras = set().union(*users.values())
    undeclared, checked = [], 0
    for path in FILES:
        for name, at_top in imports(path):
            if name in sys.stdlib_module_names or name == "rhapsode":  # the guides are scripts
                continue
            checked += 1
            allowed = DEPENDENCIES | (OPTIONAL[EXTRAS[name]] if name in EXTRAS else set() if at_top else in_extras)
            excused = set() if at_top else ASKED_FOR | BROUGHT_BY_DATASETS | GUARDED | CALLED_BY | MEASURED
            if not distributions(name) & allowed and name not in excused:
                undeclared.append(f"{path.relative_to(ROOT)}: {name}")
    assert checked > 100
    assert undeclared == []


def test_what_is_declared_is_imported():
    imported = {d for path in FILES for name, _ in imports(path) for d in distributions(name)}
    assert imported >= DEPENDENCIES


def test_every_package_is_installed():
    """A folder that `packages` does not list is missing from the wheel, and from nothing else."""
    found = {
        ".".join(("rhapsode", *path.parent.relative_to(ROOT).parts)) for path in FILES if path.name == "__init__.py"
    }
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize("missing", sorted(EXTRAS))
def test_a_missing_extra_is_named(missing, monkeypatch, capsys):

    def without(*_):
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr("rhapsode.recipes.cli.parse", without)
    assert main(["sft"]) == 2
    error = capsys.readouterr().err
    assert error == f"rhapsode sft: needs {missing}; pip install 'rhapsode[{EXTRAS[missing]}]'\n"
