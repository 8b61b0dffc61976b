"""The directory that a command writes: a new one, its own to go on with or to overwrite, and never anything else."""

from dataclasses import fields
from pathlib import Path

from .base import RESOLVED, UserError, default_of

ALWAYS_FREE = {"output_dir", "overwrite_output_dir", "resume"}  # on resume


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
