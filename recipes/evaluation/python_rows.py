"""Rows of three tasks, made from the running Python: nothing is downloaded, and everyone has the same Python's.

    python:statements     lines of the library's held-out modules, and what one slip of the fingers makes of them
    python:builtins       what a built-in function or method says of itself, among what its neighbours say
    python:expressions    expressions and what they evaluate to

Which rows there are, and the slip that each line gets, depends on the names alone and on Python's version.
"""

import ast
import builtins
import inspect
import io
import keyword
import tokenize
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

from ..alignment.drawing import draw, side_of
from ..alignment.library import first_sentence
from ..alignment.rows import Row, Tables
from ..data.corpus import STDLIB, read_documents
from ..options.base import UserError

PREFIX = "python:"
MOST_STATEMENTS = 1000
SHORTEST, LONGEST = 12, 100  # characters of a statement
MOST_EXPRESSIONS = 400  # of each split
CHOICES = 4
OWNERS = (str, bytes, list, dict, set, tuple, int, float)
OTHER_BRACKETS = str.maketrans(")]}", "])]")
LEFT_OUT = {"=", ",", ".", ":", "==", "(", ")", "[", "]"}


def python_tables(source: str) -> Tables:
    """As `open_tables` gives them.

    Raises:
        UserError: an unknown name.
    """
    name = source.removeprefix(PREFIX)
    if name not in TABLES:
        raise UserError(f"--dataset {source}: after {PREFIX} comes {', '.join(TABLES)}")
    splits, rows = TABLES[name]
    return {split: partial(_numbered, source, split, rows) for split in splits}


def _numbered(source: str, split: str, rows: Callable[[str], Iterator[dict]]) -> Iterator[Row]:
    return (Row(f"{source}, {split} row {number}", values) for number, values in enumerate(rows(split), 1))


def statements(split: str) -> list[dict]:
    """`good`, `bad`, `slip` and `module`."""
    found = {}
    for document in read_documents([STDLIB], "validation"):
        for line in map(str.strip, document.text.splitlines()):
            if SHORTEST <= len(line) <= LONGEST and line not in found and _is_statement(line):
                found[line] = document.name
    rows = []
    for line in sorted(found, key=lambda line: draw("statement", line)):
        slips = [(slip, bad) for slip, make in SLIPS.items() for bad in make(line) if not _parsed(bad)]
        if slips:
            kind = sorted({slip for slip, _ in slips})
            kind = kind[int(draw("slip", line) * len(kind))]
            chosen = sorted((bad for slip, bad in slips if slip == kind), key=lambda bad: draw("place", bad))
            rows.append({"good": line, "bad": chosen[0], "slip": kind, "module": found[line]})
        if len(rows) == MOST_STATEMENTS:
            break
    return rows


def _is_statement(line: str) -> bool:
    """Whether the line is Python and more than words. Backslashes may make Python warn, and comments say anything."""
    body = [] if set("\\#") & set(line) else _parsed(line)
    return len(body) == 1 and not isinstance(getattr(body[0], "value", None), ast.Constant | ast.Name)


def _parsed(line: str) -> list[ast.stmt]:
    try:
        return ast.parse(line).body
    except (SyntaxError, ValueError):
        return []


def _tokens(line: str) -> list[tokenize.TokenInfo]:
    found = tokenize.generate_tokens(io.StringIO(line).readline)
    return [token for token in found if token.string.strip()]


def _wrong_bracket(line: str) -> Iterator[str]:
    for token in _tokens(line):
        if token.string in ")]}":
            yield _replaced(line, token, token.string.translate(OTHER_BRACKETS))


def _left_out(line: str) -> Iterator[str]:
    return (_replaced(line, token, "") for token in _tokens(line) if token.string in LEFT_OUT)


def _exchanged(line: str) -> Iterator[str]:
    tokens = _tokens(line)
    for first, second in pairwise(tokens):
        between = line[first.end[1] : second.start[1]]
        yield line[: first.start[1]] + second.string + between + first.string + line[second.end[1] :]


def _replaced(line: str, token: tokenize.TokenInfo, text: str) -> str:
    return line[: token.start[1]] + text + line[token.end[1] :]


SLIPS = {"wrong bracket": _wrong_bracket, "left out": _left_out, "exchanged": _exchanged}


def builtin_sentences(split: str) -> list[dict]:
    """`name`, `sentence` and `choices`, sentences of the same owner."""
    rows = []
    for owner, members in _documented().items():
        for name, sentence in members.items():
            others = sorted({text for text in members.values() if text != sentence}, key=lambda t: draw(name, t))
            if len(others) >= CHOICES - 1:
                choices = sorted([sentence, *others[: CHOICES - 1]], key=lambda text: draw("choice", name, text))
                rows.append({"name": name, "owner": owner, "sentence": sentence, "choices": choices})
    return rows


def _documented() -> dict[str, dict[str, str]]:
    """Name -> sentence, of the built-in functions and of the methods of each built-in class."""
    groups = {"builtins": vars(builtins)} | {owner.__name__: vars(owner) for owner in OWNERS}
    found = {}
    for owner, members in groups.items():
        for name, member in sorted(members.items()):
            if name.startswith("_") or not inspect.isroutine(member):  # `exit` is an object of the module site
                continue
            sentence = first_sentence(inspect.getdoc(member) or "")
            if sentence.endswith(".") and len(sentence.split()) >= 3:
                found.setdefault(owner, {})[name] = sentence
    return found


def expressions(split: str) -> list[dict]:
    """`expression` and `value`, the `repr` of what it evaluates to."""
    found = {}
    for number in range(8 * MOST_EXPRESSIONS):
        a, b = (int(draw("operand", which, number) * 100) for which in "ab")
        word = keyword.kwlist[int(draw("word", number) * len(keyword.kwlist))]
        kind = OPERATIONS[number % len(OPERATIONS)]
        expression, value = kind(a, b, word)
        if side_of(expression, {"train": 0.5, "test": 0.5}) == split:
            found[expression] = repr(value)
    return [{"expression": e, "value": value} for e, value in list(found.items())[:MOST_EXPRESSIONS]]


OPERATIONS = (
    lambda a, b, word: (f"{a} + {b}", a + b),
    lambda a, b, word: (f"{a} - {b}", a - b),
    lambda a, b, word: (f"{a} > {b}", a > b),
    lambda a, b, word: (f"max({a}, {b})", max(a, b)),
    lambda a, b, word: (f"len({word!r})", len(word)),
    lambda a, b, word: (f"{word!r}.upper()", word.upper()),
    lambda a, b, word: (f"{word!r}[0]", word[0]),
    lambda a, b, word: (f"{word!r} * {a % 3}", word * (a % 3)),
    lambda a, b, word: (f"sorted([{a}, {b}])", sorted([a, b])),
    lambda a, b, word: (f"list(range({a % 6}))", list(range(a % 6))),
)
TABLES = {
    "statements": (("test",), statements),
    "builtins": (("test",), builtin_sentences),
    "expressions": (("train", "test"), expressions),
}
