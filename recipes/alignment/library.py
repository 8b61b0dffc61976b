"""What the standard library documents: its public functions, classes and methods, each with one sentence.

Read with `ast` from the sources of the running interpreter: nothing is imported, so nothing runs. The sentence is the
first one of the docstring. Left out are names that a body defines twice, as one cannot tell which of them counts, and
sentences that are none: signatures, fragments, doctests, and those too long for a small model to learn.
"""

import ast
import builtins
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..data.corpus import stdlib_files
from .library_cache import recalled

LEFT_OUT = {"idlelib", "lib2to3", "turtledemo", "ensurepip"}  # programs, and what later Pythons removed
LONGEST_NAME = 40  # characters
LONGEST_SENTENCE = 80
FEWEST_WORDS = 4
# By these a module has names that its source does not spell out.
HIDDEN_NAMES = re.compile(
    r"\bimport\s*\*|__getattr|\b(?:globals|vars|locals|setattr)\(|_convert_|sys\.modules\[__name__\]"
)
BUILTIN_CLASSES = {name: value for name, value in vars(builtins).items() if isinstance(value, type)}
BUILTIN_ATTRIBUTES = frozenset(attribute for value in BUILTIN_CLASSES.values() for attribute in dir(value))
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\betc)[.!?](?=\s+[^a-z\s]|\s*$)")


class Documented(NamedTuple):
    """One object: `kind` is function, class or method; `owner` the module or class that `name` begins with."""

    name: str
    owner: str
    kind: str
    sentence: str
    module: str
    is_closed: bool  # every public name of the owner stands in its module's source


class Library(NamedTuple):
    documented: list[Documented]
    words: dict[str, frozenset[str]]  # of each module's source
    modules: frozenset[str]

    def lacks(self, like: Documented, attribute: str) -> bool:
        """Whether the owner of `like` certainly has no such attribute."""
        return (
            like.is_closed
            and attribute not in self.words[like.module]
            and f"{like.owner}.{attribute}" not in self.modules
            and attribute not in BUILTIN_ATTRIBUTES
        )


def first_sentence(docstring: str) -> str:
    """The first sentence of a docstring's first paragraph, in one line."""
    paragraph = " ".join(inspect.cleandoc(docstring).split("\n\n")[0].split())
    end = SENTENCE_END.search(paragraph)
    return paragraph[: end.end()] if end else paragraph


@cache
def standard_library() -> Library:
    """The running interpreter's library: five seconds the first time on a machine, and then a tenth of one."""
    files = stdlib_files()
    found = recalled(files, Path(__file__), lambda: _read(files))
    words = {module: frozenset(text.split()) for module, text in found["words"].items()}
    return Library([Documented(*item) for item in found["documented"]], words, frozenset(found["modules"]))


def _read(files: list[tuple[str, Path]]) -> dict:
    """The fields of a library in JSON's types."""
    documented, words, modules = [], {}, set()
    for file_name, path in files:
        parts = file_name.removesuffix(".py").removesuffix("/__init__").split("/")
        modules.add(".".join(parts))
        if parts[0] in LEFT_OUT or not all(part.isidentifier() and _is_public(part) for part in parts):
            continue
        try:
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source)
        except (UnicodeDecodeError, SyntaxError):  # another encoding, a template
            continue
        module = ".".join(parts)
        words[module] = " ".join(sorted(set(re.findall(r"\w+", source))))
        documented += _documented(tree, module, module, not HIDDEN_NAMES.search(source))
    return {"documented": documented, "words": words, "modules": sorted(modules)}


def _documented(body: ast.Module | ast.ClassDef, owner: str, module: str, is_closed: bool) -> Iterator[Documented]:
    definitions = [node for node in body.body if isinstance(node, DEFINITIONS)]
    times = Counter(node.name for node in definitions)
    classes = {node.name: node for node in definitions if isinstance(node, ast.ClassDef)}
    for node in definitions:
        name = f"{owner}.{node.name}"
        if times[node.name] > 1 or not _is_public(node.name) or len(name) > LONGEST_NAME:
            continue
        kind = "class" if node.name in classes else "method" if isinstance(body, ast.ClassDef) else "function"
        sentence = first_sentence(ast.get_docstring(node) or "")
        if _is_usable(sentence):
            yield Documented(name, owner, kind, sentence, module, is_closed)
        if kind == "class":
            yield from _documented(node, name, module, is_closed and _inherits_within(node, classes))


def _inherits_within(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> bool:
    """Whether all that the class inherits is built in or comes from classes defined beside it."""
    if node.keywords or node.decorator_list:
        return False
    names = [base.id if isinstance(base, ast.Name) else None for base in node.bases]
    own = [name for name in names if name in classes and name != node.name]
    return all(name in own or name in BUILTIN_CLASSES for name in names) and all(
        _inherits_within(classes[name], classes) for name in own
    )


def _is_public(name: str) -> bool:
    return not name.startswith("_")


def _is_usable(sentence: str) -> bool:
    return (
        len(sentence) <= LONGEST_SENTENCE
        and len(sentence.split()) >= FEWEST_WORDS
        and sentence.isascii()
        and sentence[0].isupper()
        and sentence.endswith(".")
        and "->" not in sentence
    )
