"""What can be typed in a chat beside questions: a slash, the name of a command, and what it takes.

A command is a row of `COMMANDS`: what it does, and a function of the session and the rest of the line that returns what
to print, or a question to ask.
"""

import dataclasses
import json
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from transformers import set_seed

from ..generation.writing import probabilities
from ..options.base import UserError, parse, write_whole
from ..options.chat import ChatOptions
from ..options.sampling import SamplingOptions
from .session import Answer, Session

SETTINGS = [f.name for f in dataclasses.fields(SamplingOptions) if f.name not in ("model", "trust_remote_code")]


class Command(NamedTuple):
    summary: str
    run: Callable[[Session, str], "str | Question"]


class Question(str):
    """What is to be asked, in place of something to print."""


class LastQuestion(Question):
    """The last one, to be answered again."""


def answered(session: Session, question: Question, **how) -> Answer:
    """What `session.ask` gives; the last question's answer takes the place of the one that it had."""
    ask = session.ask_again if isinstance(question, LastQuestion) else session.ask
    return ask(str(question), **how)


class Exit(Exception):
    """The chat is to end."""


def run_command(session: Session, line: str) -> str | Question:
    """What to print after a command; a `Question` for a line that is one, also if it begins with a path.

    Raises:
        UserError: an unknown command, or one that cannot do what it is asked.
        Exit: the user wants to go.
    """
    name, _, rest = line.strip().partition(" ")
    if name in COMMANDS:
        return COMMANDS[name].run(session, rest.strip())
    if not name.startswith("/") or rest or "/" in name[1:]:
        return Question(line.strip())
    nearest = get_close_matches(name, COMMANDS, n=1)
    raise UserError(f"unknown command {name}; {f'did you mean {nearest[0]}?' if nearest else 'see /help'}")


def _help(session: Session, rest: str) -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(f"{name:<{width}}  {command.summary}" for name, command in COMMANDS.items())


def _reset(session: Session, rest: str) -> str:
    session.reset()
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


def _regenerate(session: Session, rest: str) -> Question:
    if not session.conversation.turns:
        raise UserError("/regenerate: nothing has been said")
    return LastQuestion(session.conversation.turns[-1][0]["content"])


def _set(session: Session, rest: str) -> str:
    name, _, value = rest.partition(" ")
    if name and name not in SETTINGS:
        nearest = get_close_matches(name, SETTINGS, n=1)
        raise UserError(f"/set {name}: " + (f"did you mean {nearest[0]}?" if nearest else f"use {', '.join(SETTINGS)}"))
    if value:
        try:
            given = parse(ChatOptions, [f"--{name}={value.strip()}"], "/set", "")
        except UserError as error:
            raise UserError(f"/set {rest}: {error}") from error
        session.use(dataclasses.replace(session.options, **{name: getattr(given, name)}))
        if name == "seed" and session.options.seed is not None:
            set_seed(session.options.seed)
    return "\n".join(f"{key} {getattr(session.options, key)}" for key in ([name] if name else SETTINGS))


def _probabilities(session: Session, rest: str) -> str:
    if session.last is None:
        raise UserError("/probabilities: nothing has been said")
    rows = probabilities(session.writer.model, session.writer.tokenizer, *session.last)
    return "\n".join(f"{row['probability']:.4f}  {row['token']!r}" for row in rows)


def _exit(session: Session, rest: str) -> str:
    raise Exit


COMMANDS = {
    "/help": Command("this list", _help),
    "/reset": Command("forget what was said", _reset),
    "/regenerate": Command("answer the last question again", _regenerate),
    "/set": Command("NAME VALUE: temperature, top_p, max_new_tokens ...; without them, what is set", _set),
    "/probabilities": Command("what the model gave to each token of its last answer", _probabilities),
    "/save": Command("FILE.jsonl: write the conversation, as rhapsode sft reads it", _save),
    "/exit": Command("end the chat, as Ctrl-D does; Ctrl-C ends only an answer", _exit),
}
