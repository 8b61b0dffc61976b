"""A directory of text cut into passages: whole paragraphs, with the file and the line where each begins.

Paragraphs are what blank lines separate. Short ones stay with the next, as a heading does with what it heads, up to
`LONGEST` characters; a longer one is cut at the ends of lines, and a line as long as that between words.
"""

import os
import re
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ..options.base import UserError

SUFFIXES = (".md", ".txt", ".rst", ".py")
LONGEST = 500  # characters of a passage


class Passage(NamedTuple):
    path: str  # below the directory
    line: int  # from 1
    text: str

    @property
    def source(self) -> str:
        return f"{self.path}:{self.line}"


def read_passages(directory: str | Path) -> list[Passage]:
    """The passages of every text file in and below the directory, hidden ones left out; or those of one file.

    Raises:
        UserError: no such directory, or no text in it.
    """
    root = Path(directory).expanduser()
    if not root.exists():
        raise UserError(f"--documents {directory}: no such directory")
    paths = [root] if root.is_file() else list(_text_files(root))
    found, unreadable = [], []
    for path in paths:
        name = path.name if path == root else path.relative_to(root).as_posix()
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError):
            unreadable.append(name)
            continue
        found += [Passage(name, line, passage) for line, passage in cut(text)]
    if unreadable:
        print(f"left out, for they are no text in UTF-8: {', '.join(unreadable[:5])}", file=sys.stderr)
    if not found:
        raise UserError(f"--documents {directory}: no text in a {' '.join(SUFFIXES)} file; name another directory")
    return found


def _text_files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        visible = (Path(folder, name) for name in sorted(names) if not name.startswith("."))
        yield from (path for path in visible if path.suffix.lower() in SUFFIXES)


def cut(text: str, longest: int = LONGEST) -> Iterator[tuple[int, str]]:
    """(line, passage) of each passage of a text; together they hold all of it that is not blank, once."""
    begin, passage = 0, ""
    for line, block in _blocks(text, longest):
        if passage and len(passage) + 2 + len(block) <= longest:
            passage += f"\n\n{block}"
            continue
        if passage:
            yield begin, passage
        begin, passage = line, block
    if passage:
        yield begin, passage


def _blocks(text: str, longest: int) -> Iterator[tuple[int, str]]:
    """(line, text) of each paragraph, and of the parts of one that is too long."""
    begin, block = 0, []
    lines = ((number, piece) for number, line in enumerate(text.split("\n"), 1) for piece in _pieces(line, longest))
    for number, line in chain(lines, [(0, "")]):
        is_full = sum(len(other) + 1 for other in block) + len(line) > longest
        if block and (not line.strip() or is_full):
            yield begin, "\n".join(block)
            block = []
        if line.strip():
            begin = begin if block else number
            block.append(line.rstrip())


def _pieces(line: str, longest: int) -> list[str]:
    return [line] if len(line) <= longest else re.findall(rf".{{1,{longest - 1}}}(?:\s|$)|.{{1,{longest}}}", line)
