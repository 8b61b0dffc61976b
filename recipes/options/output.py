"""The directory that a command writes: a new one, its own to go on with or to overwrite, and never anything else."""

import re
from dataclasses import fields
from pathlib import Path

from .base import RESOLVED, UserError, default_of

ALWAYS_FREE = {"output_dir", "overwrite_output_dir", "resume"}  # on resume
SIZE = re.compile(r"\s*\d*\.?\d+\s*[KMGT]B\s*", re.IGNORECASE)
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def check_output(options, command: str, free: set[str] = frozenset()) -> Path:
    """`options.output_dir`; nothing is written or deleted yet.

    Args:
        command: whose directories these are; the first line of config_resolved.yaml says it.
        free: options that may have another value than in the run that is resumed.

    Raises:
        UserError: it holds something else, or a run that is neither to be resumed nor to be overwritten, or a run with
            other options than the one that is to be resumed.
    """
    directory = Path(options.output_dir)
    check_parents("output_dir", directory)
    if directory.exists() and not directory.is_dir():
        raise UserError(f"--output_dir {directory} is a file; name a directory")
    if not directory.exists() or not any(directory.iterdir()):
        return directory
    resolved = directory / RESOLVED
    if not resolved.is_file() or not resolved.read_bytes().startswith(f"# rhapsode {command} ".encode()):
        raise UserError(f"--output_dir {directory} holds files that are not a {command} run's; name another directory")
    if getattr(options, "resume", False):
        check_same(resolved, options, ALWAYS_FREE | free)
    elif not getattr(options, "overwrite_output_dir", False):
        ways = {"resume": "--resume goes on with it", "overwrite_output_dir": "--overwrite_output_dir deletes it"}
        offered = ", ".join(way for name, way in ways.items() if hasattr(options, name))
        raise UserError(f"--output_dir {directory} holds a run; {offered}")
    return directory


def check_parents(flag: str, path: Path) -> None:
    """A `UserError` where a file stands in the place of a directory above `path`."""
    blocking = next((parent for parent in path.absolute().parents if parent.exists() and not parent.is_dir()), None)
    if blocking is not None:
        raise UserError(f"--{flag} {path}: {blocking} is a file, not a directory; name another place")


def check_shard_size(size: str) -> None:
    """As `max_shard_size` of transformers takes it."""
    if not SIZE.fullmatch(size) or not re.search("[1-9]", size):
        raise UserError(f"--max_shard_size {size!r} is no size; use a number with KB, MB, GB or TB, such as 5GB")


def check_license(name: str | None) -> None:
    """The form of the Hub's names; which there are, it says itself."""
    if name is not None and not LICENSE.fullmatch(name):
        raise UserError(
            f"--license {name!r} is no name of a license on the Hub, such as apache-2.0, mit or other: lower case, "
            "without spaces"
        )


def check_same(resolved: Path, options, free: set[str]) -> None:
    """A `UserError` where an option that is not `free` has another value than in the file."""
    import yaml

    try:
        before = dict(yaml.safe_load(resolved.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise UserError(f"{resolved} is damaged; write the run's options there again to resume") from error
    before = {f.name: default_of(f) for f in fields(options)} | before  # a run may be older than an option
    for name, value in vars(options).items():
        if name not in free and before[name] != value:
            raise UserError(
                f"--resume with {name}={value!r}, but the run in {resolved.parent} has {name}={before[name]!r}; "
                f"give the same, or start a new run"
            )
