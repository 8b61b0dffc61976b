"""Options of a command: a dataclass, a YAML file and flags, in rising precedence.

A command's options are a dataclass whose fields are made by `option`, with a help text that gives the unit; the default
is added to the help by itself. This module and its neighbours import nothing heavy, so that `--help` answers at once.
"""

import argparse
import dataclasses
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

from . import help as help_texts

RESOLVED = "config_resolved.yaml"  # what every command that writes a directory leaves in it
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed
LARGEST_SEED = 2**32 - 1  # of NumPy's generators


class UserError(ValueError):
    """Something that whoever runs a command can mend: printed as one line on stderr, exit status 2."""


def printable(text: str) -> str:
    """What a file, a document or a model says, for a terminal: it must not move the cursor there, or set a title."""
    return CONTROL.sub("", text)


def shown(text: str) -> str:
    """What is printed on standard output: the text as it is, but for a terminal."""
    return printable(text) if sys.stdout.isatty() else text


def one_line(message: object, limit: int | None = None) -> str:
    """The message, an error or a text, printable and without its line breaks; at most `limit` characters of it."""
    return printable(" ".join((str(message) or type(message).__name__).split()))[:limit]


def option(
    default,
    help: str,
    choices: tuple = (),
    positional: bool = False,
    flag: str | None = None,
    section: str | None = None,
):
    """A field with its help text, given as `--name VALUE`, as `flag VALUE` or, if `positional`, without a name.

    `section` opens a part of the help, to which the fields that follow belong too.
    """
    metadata = {"help": help, "choices": choices, "positional": positional, "flag": flag, "section": section}
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(message)


def parse(options_class: type, arguments: list[str], prog: str, description: str):
    """An instance of `options_class` from `--config FILE` and flags.

    Raises:
        UserError: an unknown key or flag (the nearest one is named), a value of the wrong type, an unreadable file.
    """
    fields = {f.name: f for f in dataclasses.fields(options_class)}
    parser = build_parser(options_class, prog, description)
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        flags = [f.metadata["flag"] or name for name, f in fields.items() if not f.metadata["positional"]] + ["config"]
        raise UserError(_unknown(f"argument {unknown[0]}", unknown[0].lstrip("-").split("=")[0], flags, "--"))
    values = vars(given)
    config = values.pop("config", None)
    merged = _read_config(config, fields, options_class) if config else {}
    merged |= {name: value for name, value in values.items() if name in fields}
    _check_seed(merged.get("seed"))
    return options_class(**merged)


def _check_seed(seed: int | None) -> None:
    """Every command's, before anything is drawn with it."""
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"--seed {seed} must be from 0 to {LARGEST_SEED}")


def build_parser(options_class: type, prog: str, description: str) -> argparse.ArgumentParser:
    """The parser of the flags; what is not given is not among its results, so that a file can give it."""
    fields = {f.name: f for f in dataclasses.fields(options_class)}
    kinds = {name: _strip_optional(hint) for name, hint in typing.get_type_hints(options_class).items()}
    positional = {name: _is_list(kinds[name][0]) for name, f in fields.items() if f.metadata["positional"]}
    parser = _Parser(
        prog=prog,
        usage=help_texts.usage(prog, positional),
        description=help_texts.description(options_class, description),
        allow_abbrev=False,
        add_help=False,
        formatter_class=help_texts.HelpFormatter,
    )
    for title, names in help_texts.sections(options_class).items():
        group = parser.add_argument_group(title)
        for name in names:
            _add_argument(group, name, fields[name], *kinds[name])
    general = parser.add_argument_group(help_texts.GENERAL)
    text = "these options in YAML; flags override them, and --no-NAME turns off what the file turns on"
    general.add_argument("--config", metavar="FILE.yaml", help=text)
    general.add_argument("-h", "--help", action="help", help="print this")
    return parser


def _add_argument(group, name, f, kind, optional):
    default = default_of(f)
    text = f"{f.metadata['help']} (default: {help_texts.default_text(default)})".replace("%", "%%")
    common = {"help": text, "default": argparse.SUPPRESS}
    flag = f.metadata["flag"] or f"--{name}"
    if f.metadata["flag"]:
        common["dest"] = name
    if f.metadata["positional"]:
        group.add_argument(name, nargs="*" if _is_list(kind) else "?", **common)
    elif kind is bool and default is False:  # of a pair of which one is the rule, help shows the other
        group.add_argument(flag, action="store_true", **common)
        group.add_argument(f"--no-{name}", action="store_false", dest=name, **common | {"help": argparse.SUPPRESS})
    elif kind is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
    elif _is_list(kind):
        group.add_argument(flag, nargs="+", type=_converter(typing.get_args(kind)[0], False), **common)
    else:
        choices = f.metadata["choices"] or None
        group.add_argument(flag, type=_converter(kind, optional), choices=choices, **common)


def _is_list(kind) -> bool:
    return typing.get_origin(kind) is list


def default_of(f):
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default


def _strip_optional(hint):
    if isinstance(hint, types.UnionType):
        members = [a for a in typing.get_args(hint) if a is not type(None)]
        return members[0], len(members) < len(typing.get_args(hint))
    return hint, False


def _converter(kind, optional):
    def convert(text):
        if optional and text.lower() == "none":
            return None
        if kind is int and not text.strip("+-").isdecimal() and float(text).is_integer():
            return int(float(text))  # 1e6 is a count too
        value = kind(text)
        if kind is float and not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
        return value

    convert.__name__ = getattr(kind, "__name__", "value")
    return convert


def check_each(options, names: Sequence[str], is_legal: Callable, what: str) -> None:
    """
    Raises:
        UserError: an option of these names has a value, and not a legal one; `what` says so.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and not is_legal(value):
            raise UserError(f"--{name} {value} {what}")


def check_positive(options, *names: str) -> None:
    check_each(options, names, lambda value: value > 0, "must be above 0")


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """For lists of words; of a single one the parser sees to it.

    Raises:
        UserError: `value` of --`name` is none of `allowed`; it names the nearest, or all.
    """
    if value not in allowed:
        nearest = get_close_matches(value, allowed, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"use {', '.join(allowed)}"
        raise UserError(f"--{name} {value!r}: {hint}")


def _unknown(what, key, names, prefix=""):
    nearest = get_close_matches(key, names, n=1)
    return f"unknown {what}" + (f"; did you mean {prefix}{nearest[0]}?" if nearest else "; see --help")


def _read_config(path, fields, options_class):
    import yaml

    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: bytes that are not UTF-8, a date such as 2026-99-99
        raise UserError(f"--config {path} is not YAML: {one_line(error)}") from error
    loaded = {} if loaded is None else loaded  # nothing but comments
    if not isinstance(loaded, dict):
        raise UserError(f"--config {path} holds {type(loaded).__name__}; it must be a mapping of options to values")
    hints = typing.get_type_hints(options_class)
    return {key: _checked(path, key, value, fields, hints) for key, value in loaded.items()}


def _checked(path, key, value, fields, hints):
    if key not in fields:
        raise UserError(_unknown(f"key {key!r} in {path}", str(key), fields))
    kind, optional = _strip_optional(hints[key])
    try:
        value = _from_yaml(value, kind, optional)
    except argparse.ArgumentTypeError:
        raise UserError(f"{key}={value!r} in {path} is not a finite number") from None
    except ValueError:
        name = " of ".join(k.__name__ for k in (kind, *typing.get_args(kind)))
        raise UserError(f"{key}={value!r} in {path} must be {name}" + (" or null" if optional else "")) from None
    choices = fields[key].metadata["choices"]
    if choices and value is not None and value not in choices:
        raise UserError(f"{key}={value!r} in {path}; use one of {', '.join(map(str, choices))}")
    return value


def _from_yaml(value, kind, optional):
    if optional and (value is None or (isinstance(value, str) and value.lower() == "none")):
        return None
    if _is_list(kind) and isinstance(value, list):
        return [_from_yaml(item, typing.get_args(kind)[0], False) for item in value]
    if kind in (int, float) and isinstance(value, int | float | str) and not isinstance(value, bool):
        return _converter(kind, False)(str(value))  # YAML reads 3e-4 as a string
    if type(value) is kind:
        return value
    raise ValueError


def save_resolved(options, path: Path, command: str) -> None:
    """Write every option, defaults included, so that `rhapsode COMMAND --config PATH` repeats the run."""
    import yaml

    body = yaml.safe_dump(dataclasses.asdict(options), sort_keys=False)  # allow_unicode would lose U+0085
    write_whole(path, f"# rhapsode {command} --config {path.name}\n{body}")


def write_whole(path: Path, text: str) -> Path:
    """Write or replace a file at once: whoever reads it, also after a power cut, finds the old one or the new one."""
    temporary = path.with_name(f".unfinished-{os.getpid()}-{path.name}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        return temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # there only if it did not become the file
