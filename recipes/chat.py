"""Talking with a model: in the terminal, or a question and its answer, or an answer for each line of standard input.

The parts lie in `recipes/chatting/`. Standard output has the answers and nothing else; calls of tools, and what the
model no longer sees, go to standard error, except in the terminal.
"""

import json
import sys
from contextlib import suppress
from functools import partial

from transformers import set_seed

from .alignment.answering import place
from .chatting.commands import Exit, Question, answered, run_command
from .chatting.session import Answer, Session, open_sources
from .cli import run_command as run_from_command_line
from .options.base import UserError, one_line, printable, shown
from .options.chat import ChatOptions
from .training.setup import load_pair

ENDINGS = {
    "max_new_tokens": "[cut off: --max_new_tokens, or the context is full]",
    "max_tool_rounds": "[it called tools more often than --max_tool_rounds]",
    "SIGINT": "[stopped]",
}


def run(options: ChatOptions) -> None:
    sources = open_sources(options)  # first, as it may fail and is quick
    model, tokenizer = load_pair(options.model, dtype="auto", trust_remote_code=options.trust_remote_code)
    session = Session(place(model), tokenizer, options, sources)
    if options.seed is not None:
        set_seed(options.seed)
    with suppress(Exit):
        if options.question:
            _print(session, Question(options.question), in_one_line=False)
        elif sys.stdin.isatty():
            _talk(session)
        else:
            _answer_lines(session)


def _answer_lines(session: Session) -> None:
    """One conversation: a question a line, an answer a line; commands work as in the terminal."""
    for line in filter(str.strip, sys.stdin):
        said = run_command(session, line)
        if isinstance(said, Question):
            _print(session, said, in_one_line=True)
        else:
            print(said, file=sys.stderr)


def _print(session: Session, question: Question, in_one_line: bool) -> None:
    tell = partial(print, file=sys.stderr, flush=True)
    answer = answered(session, question, tell=tell)
    if session.options.json:
        print(json.dumps({"question": str(question), **described(answer)}, ensure_ascii=False), flush=True)
    else:
        text = shown(answer.text.strip())
        print(" ".join(text.split()) if in_one_line else text, flush=True)
        for note in _endings(answer):
            tell(note)
        for source in _sources(answer):
            tell(source) if in_one_line else print(source)
        tell(_speed(answer))
    _end_if_told(answer)


def _talk(session: Session) -> None:
    with suppress(ImportError):
        import readline  # noqa: F401 (line editing and history for `input`)
    print(f"{session.options.model}; /help lists the commands")
    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n[/exit ends the chat]")
            continue
        if not line.strip():
            continue
        try:
            said = run_command(session, line)
            if isinstance(said, Question):
                answer = answered(session, said, show=partial(print, end="", flush=True), tell=print)
                print("\n".join(["", *_endings(answer), *_sources(answer), _speed(answer)]))
                _end_if_told(answer)
            else:
                print(said)
        except UserError as error:
            print(one_line(error))


def _endings(answer: Answer) -> list[str]:
    """How the answer came to its end, if not by itself."""
    return [ENDINGS[answer.ending]] if answer.ending in ENDINGS else []


def _speed(answer: Answer) -> str:
    return f"[{answer.tokens} tokens, {answer.tokens / answer.seconds:.1f} tokens/s]"


def _sources(answer: Answer) -> list[str]:
    """What the answer cites; where it cites nothing, what was read for it."""
    if answer.passages and not answer.cited:
        return [printable("read: " + ", ".join(passage.source for passage in answer.passages))]
    return [printable(f"[{n}] {answer.passages[n - 1].source}") for n in answer.cited]


def described(answer: Answer) -> dict:
    """What --json prints of an answer."""
    return {
        "answer": answer.text.strip(),
        "calls": [{"name": c.name, "arguments": c.arguments, "result": result} for c, result in answer.runs],
        "sources": [
            {"number": n, "path": passage.path, "line": passage.line, "cited": n in answer.cited}
            for n, passage in enumerate(answer.passages, 1)
        ],
        "ending": answer.ending,
        "tokens": answer.tokens,
        "tokens_per_second": answer.tokens / answer.seconds,
    }


def _end_if_told(answer: Answer) -> None:
    if answer.ending == "SIGTERM":
        raise Exit


if __name__ == "__main__":
    sys.exit(run_from_command_line("chat", sys.argv[1:]))
