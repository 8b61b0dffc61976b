"""The code that travels with a model: its hash, and whether it is the code that this package has.

    hash = sha256 of what `sha256sum *.py` prints           (LC_ALL=C; sha256sum *.py | sha256sum)

so that anyone can compute it without Rhapsode. The card names it. Whoever changes the code may change the card too:
only a hash from elsewhere, such as this package's own, says that the code is what it claims to be.
"""

import hashlib
import inspect
import json
from pathlib import Path

import yaml
from transformers import CONFIG_MAPPING
from transformers.dynamic_module_utils import get_relative_import_files

from .source import check_source, local_folder
from .untrusted import check_folder, class_references

KEY = "code_sha256"  # in the metadata of the card
CODE_FILES = ("*.py", "*.json", "*.md")


def code_hash(folder: Path) -> str | None:
    """Of all Python files in the folder; `None` where there are none."""
    return _hash(_code_of(folder))


def _code_of(folder: Path) -> dict[str, Path]:
    """All Python files by name; a run keeps copies of them in its checkpoints, which belong to nobody's export."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.py")}
    return {name: path for name, path in found.items() if not name.startswith("checkpoints/")}


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _hash(files: dict[str, Path]) -> str | None:
    lines = [f"{hashlib.sha256(files[name].read_bytes()).hexdigest()}  {name}\n" for name in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None


def verify(source: str | Path, sha256: str | None = None, revision: str | None = None) -> str:
    """One line that says what the code of an export is; nothing of it runs.

    Args:
        source: a directory or Hub id.
        sha256: what the hash must be; where `None`, that of the code in this package.

    Raises:
        ValueError: the code is another; the message names the files that differ.
    """
    folder = local_folder(source, revision, CODE_FILES)
    refuse_changed_code(folder)
    found = code_hash(folder)
    if elsewhere := _code_elsewhere(folder):
        raise ValueError(f"{source}: it takes its code from {elsewhere}; verify that repository")
    if found is None:
        return f"{source}: it brings no code"
    if sha256 is not None and found != sha256.lower():
        raise ValueError(f"{source}: its code has sha256 {found} and not {sha256}; do not run it")
    if sha256 is None and (differing := _differing(folder)):
        raise ValueError(
            f"{source}: its code is not this Rhapsode's, {_some(differing)} differ; another version of it has "
            f"another hash: read the code, or give --sha256 from whom you trust (this is {found})"
        )
    return f"{source}: unchanged, sha256 {found}"


def refuse_changed_code(folder: str | Path) -> None:
    """To call before code of the folder runs.

    Raises:
        ValueError: the card names a hash, and the code has another; or a name leads out of the folder.
    """
    folder = Path(folder)
    check_folder(folder)
    stated, found = _hash_in_card(folder), code_hash(folder)
    if stated is not None and (elsewhere := _code_elsewhere(folder)):
        raise ValueError(f"{folder}: changed after the export: it takes its code from {elsewhere}; do not run it")
    if stated is not None and stated != found:
        changed = _some(_differing(folder)) or "its files"
        raise ValueError(
            f"{folder}: the code was changed after the export ({changed}): README.md names sha256 {stated[:12]}..., it "
            f"has {str(found)[:12]}...; do not run it, export or fetch it again"
        )


def check_before_loading(
    source: str | Path, trust_remote_code: bool = False, revision: str | None = None, weights: bool = True
) -> dict[str, str]:
    """To call before a model is opened, wherever it lies, or a tokenizer, which has no `weights`.

    Returns:
        what `from_pretrained` must be told to open just what was looked at: the commit, where code of the Hub may run.

    Raises:
        ValueError: weights in a pickle, a name that leads elsewhere and, where its code may run, code that is not what
            its card says.
    """
    check_source(source, revision, weights=weights)
    if not trust_remote_code:
        return {}
    folder = local_folder(source, revision, CODE_FILES)
    refuse_changed_code(folder)
    return {} if Path(source).is_dir() else {"revision": folder.name}  # the cache names a snapshot by its commit


def _code_elsewhere(folder: Path) -> str | None:
    """The other repository that a class is taken from, if any: `auto_map` may say owner/name--module.Class."""
    for path in sorted(folder.glob("*config.json")):
        fields = json.loads(path.read_text(encoding="utf-8"))
        for reference in class_references(fields):
            if "--" in reference:
                return reference.split("--")[0]
    return None


def _hash_in_card(folder: Path) -> str | None:
    card = folder / "README.md"
    if not card.is_file() or not (text := card.read_text(encoding="utf-8", errors="replace")).startswith("---"):
        return None
    try:
        metadata = yaml.safe_load(text.split("---", 2)[1])
    except (yaml.YAMLError, IndexError):
        return None
    return str(metadata[KEY]) if isinstance(metadata, dict) and metadata.get(KEY) is not None else None


def _differing(folder: Path) -> list[str]:
    """Names of Python files that are not this package's, or that it has beside them."""
    ours = package_files(folder)
    theirs = _code_of(folder)
    same = {name for name in ours.keys() & theirs.keys() if ours[name].read_bytes() == theirs[name].read_bytes()}
    return sorted((ours.keys() | theirs.keys()) - same)


def package_files(folder: Path) -> dict[str, Path]:
    """The installed files that a model of the folder's kind travels with, by name; none for a kind of another library.

    They are the modules that `auto_map` names, and what these import by one dot, as `save_pretrained` copies them.
    """
    config = folder / "config.json"
    fields = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    kind = fields.get("model_type")
    if kind not in CONFIG_MAPPING or CONFIG_MAPPING[kind].__module__.startswith("transformers."):
        return {}
    home = Path(inspect.getfile(CONFIG_MAPPING[kind])).parent
    roots = {home / f"{path.split('.')[0]}.py" for path in fields.get("auto_map", {}).values()}
    roots = {root for root in roots if root.is_file()}
    return {Path(path).name: Path(path) for root in roots for path in (root, *get_relative_import_files(root))}
