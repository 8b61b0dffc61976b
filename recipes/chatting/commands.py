"""What can be typed in a chat beside questions: a slash, the name of a command, and what it takes.

A command is a row of `COMMANDS`: what it does, and a function of the session and the rest of the line that returns what
to print.
"""

import json
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from ..options.base import UserError, write_whole
from .session import Session


class Command(NamedTuple):
    summary: str
    run: Callable[[Session, str], str]


class Exit(Exception):
    """The chat is to end."""


def run_command(session: Session, line: str) -> str | None:
    """What to print after a command; None for a line that is a question, also one that begins with a path.

    Raises:
        UserError: an unknown command, or one that cannot do what it is asked.
        Exit: the user wants to go.
    """
    name, _, rest = line.strip().partition(" ")
    if name in COMMANDS:
        return COMMANDS[name].run(session, rest.strip())
    if not name.startswith("/") or rest or "/" in name[1:]:
        return None
    nearest = get_close_matches(name, COMMANDS, n=1)
    raise UserError(f"unknown command {name}; {f'did you mean {nearest[0]}?' if nearest else 'see /help'}")


def _help(session: Session, rest: str) -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(f"{name:<{width}}  {command.summary}" for name, command in COMMANDS.items())


def _reset(session: Session, rest: str) -> str:
    session.conversation.reset()
    return "a new conversation"


def _save(session: Session, rest: str) -> str:
    """A line of JSON as `rhapsode sft --dataset FILE` reads it."""
    path = Path(rest).expanduser()
    if path.suffix != ".jsonl":
        raise UserError(f"/save {rest}; name a .jsonl file")
    if path.exists():
        raise UserError(f"/save {rest}: there is such a file already; name another")
    if not session.conversation.turns:
        raise UserError(f"/save {rest}: nothing has been said")
    row = {"messages": session.conversation.messages}
    if session.tools.schemas:
        row["tools"] = session.tools.schemas
    try:
        write_whole(path, json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"/save {rest}: {error.strerror}") from error
    return f"saved in {path}"


def _exit(session: Session, rest: str) -> str:
    raise Exit


COMMANDS = {
    "/help": Command("this list", _help),
    "/reset": Command("forget what was said", _reset),
    "/save": Command("FILE.jsonl: write the conversation, as rhapsode sft reads it", _save),
    "/exit": Command("end the chat, as Ctrl-D does; Ctrl-C ends only an answer", _exit),
}
