"""Where text comes from: one stream of documents, whatever the source.

    stdlib            the sources of the running interpreter's standard library: a corpus that every Python carries
    a path            a file, a directory or a glob of .txt .md .py .jsonl .json .parquet .csv, also .gz .bz2 .xz .zst
    anything else     the id of a dataset on the Hub, streamed, as `name` or `name:configuration`

A source without a validation split of its own is split by a stable hash of each document's name (of its text, for rows
of a table), so that the split never changes and equal rows never fall on both sides. The name is the path below the
directory, or below the part of the pattern without wildcards, and leaves out the compression: moving or packing files
does not change their split. Where it leaves one side empty, as for a single text file, the end of each text validates.
"""

import glob
import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, takewhile
from pathlib import Path
from typing import NamedTuple

from ..options.base import UserError
from .hub import read_hub
from .readers import COMPRESSIONS, READERS, read_file, suffixes

STDLIB = "stdlib"
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
VALIDATION_SHARE = 0.05
SPLITS = ("train", "validation", "all")


class Document(NamedTuple):
    name: str
    text: str


class Part(NamedTuple):
    """One file of a source, which is read, or passed over, without the others."""

    name: str
    path: Path
    read: Callable[[], Iterator[Document]]


def read_documents(
    dataset: list[str], split: str, text_column: str = "text", validation_share: float = VALIDATION_SHARE
) -> Iterator[Document]:
    """The non-empty documents of `split` (`train`, `validation` or `all`), in a fixed order.

    `validation_share` is of sources without a validation split of their own.

    Raises:
        UserError: a missing path, unreadable bytes, a missing column, a source without one document; the file is named.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}; use {' or '.join(SPLITS)}")
    for source in dataset:
        parts = parts_of(source, split, text_column, validation_share)
        if parts is None:
            side_of = partial(split_of, validation_share=validation_share)
            documents = (Document(*d) for d in read_hub(source, split, text_column, side_of))
        else:
            documents = chain.from_iterable(part.read() for part in parts)
        count = 0
        for document in documents:
            if document.text.strip():
                count += 1
                yield document
        if count == 0:
            raise no_text(source, split)


def no_text(source: str, split: str) -> UserError:
    return UserError(f"--dataset {source}: no text in its {split} split; give more or longer documents")


def parts_of(
    source: str, split: str, text_column: str = "text", validation_share: float = VALIDATION_SHARE
) -> list[Part] | None:
    """The files that hold the documents of `split`, in a fixed order; None for a dataset on the Hub."""
    if source == STDLIB:
        files = ((name, path) for name, path in stdlib_files() if split in ("all", split_of(name, validation_share)))
        return [Part(name, path, partial(_read_module, name, path)) for name, path in files]
    files = _files(source)
    return None if files is None else _parts_of_files(files, split, text_column, validation_share)


def split_of(key: str, validation_share: float = VALIDATION_SHARE) -> str:
    """`"validation"` for `validation_share` of all keys, always the same ones; else `"train"`."""
    draw = int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    return "validation" if draw < validation_share * 2**64 else "train"


def stdlib_files() -> list[tuple[str, Path]]:
    """(name relative to the library, path) of each source file, tests and installed packages left out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for directory, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in LEFT_OUT]  # packages may be ten times the library
        found += [Path(directory, name).relative_to(root) for name in names if name.endswith(".py")]
    return [(str(p), root / p) for p in sorted(found)]


def _read_module(name: str, path: Path) -> Iterator[Document]:
    try:
        yield Document(name, path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:  # a few old modules declare another encoding
        yield Document(name, path.read_text(encoding="latin-1"))


def _files(source: str) -> dict[str, Path] | None:
    """The files that `source` names, by the name that decides their split; None where it can only be a dataset's id."""
    try:
        path = Path(source).expanduser()
        is_file, is_directory = path.is_file(), path.is_dir()
    except (OSError, RuntimeError) as error:  # a name too long, an unknown ~user
        raise UserError(f"--dataset {source[:100]}: {getattr(error, 'strerror', None) or error}") from error
    if is_file:
        return {path.name: path}
    if is_directory:
        found = _below(path, (p for p in path.rglob("*") if suffixes(p)[0] in READERS))
        if not found:
            raise UserError(f"--dataset {source}: no {' '.join(READERS)} file in this directory")
        return found
    if glob.has_magic(source):
        root = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
        matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 (pathlib's ** has no files before Python 3.13)
        found = _below(root, map(Path, matches))
        if not found:
            raise UserError(f"--dataset {source}: no file matches this pattern")
        return found
    looks_local = source.startswith((".", "/", "~")) or path.suffix in (*READERS, *COMPRESSIONS)
    if looks_local or source.count("/") > 1:
        raise UserError(f"--dataset {source}: no such file or directory")
    return None


def _below(root: Path, paths: Iterable[Path]) -> dict[str, Path]:
    """The files among the paths by their names below `root`, sorted; hidden ones are left out."""
    named = {p.relative_to(root): p for p in paths if p.is_file()}
    return {n.as_posix(): named[n] for n in sorted(named) if not any(part.startswith(".") for part in n.parts)}


def _parts_of_files(files: dict[str, Path], split: str, text_column: str, share: float) -> list[Part]:
    sides = {name: _side(name, path, share) for name, path in files.items()}
    by_position = split != "all" and not _has_both_sides(files, sides, text_column, share)
    if_on_side = partial(_if_on_side, split=split, share=share)
    parts = []
    for name, path in files.items():
        if by_position:
            parts.append(Part(name, path, partial(_read_by_position, path, text_column, split, share)))
            continue
        if split == "all" or sides[name] == split:
            keep = str
        elif sides[name] is None:
            keep = if_on_side
        else:
            continue
        parts.append(Part(name, path, partial(_read_part, path, text_column, keep)))
    return parts


def _read_part(path: Path, text_column: str, keep: Callable[[str], str]) -> Iterator[Document]:
    """The documents of a file, each with what `keep` leaves of it."""
    return (Document(name, keep(text)) for name, text in read_file(path, text_column))


def _read_by_position(path: Path, text_column: str, split: str, share: float) -> Iterator[Document]:
    """What each document of a file has on this side of a cut: one near the end of a text file, of a table's every row.

    A long text file is several documents. Its length is known after reading it once more: it may be compressed.
    """
    is_table, begin = READERS[_known_suffix(path)].is_table, 0
    total = None if is_table else sum(len(text) for _, text in read_file(path, text_column))
    for name, text in read_file(path, text_column):
        yield Document(name, _part(text, split, share, begin, total))
        begin += 0 if is_table else len(text)


def _if_on_side(text: str, split: str, share: float) -> str:
    return text if split_of(text, share) == split else ""


def _side(name: str, path: Path, share: float) -> str | None:
    """The split of a whole file; None where each row has its own."""
    if READERS[_known_suffix(path)].is_table:
        return None
    return split_of(name[: len(name) - len(suffixes(path)[1])], share)


def _has_both_sides(files: dict[str, Path], sides: dict[str, str | None], text_column: str, share: float) -> bool:
    if None not in sides.values() and len(set(sides.values())) < 2:  # known without reading them
        return False
    found = set()
    for file_name, path in files.items():
        for _, text in read_file(path, text_column):
            if text.strip():
                found.add(sides[file_name] or split_of(text, share))
            if len(found) == 2:
                return True
    return False


def _part(text: str, split: str, share: float = VALIDATION_SHARE, begin: int = 0, total: int | None = None) -> str:
    """The last `share` of a text, from the beginning of a line on if one is near, or what is before it.

    Of a piece of a longer text, which has `total` characters and the piece from `begin` on, what the side has of it.
    """
    total = len(text) if total is None else total
    size = max(1, int(total * share))
    cut = min(max(total - size - begin, 0), len(text))
    if 0 < cut < len(text):
        cut = text.rfind("\n", max(0, cut - size), cut) + 1 or cut
    return text[:cut] if split == "train" else text[cut:]


def _known_suffix(path: Path) -> str:
    kind = suffixes(path)[0]
    if kind not in READERS:
        raise UserError(f"--dataset {path}: unknown kind {kind or 'without a suffix'!r}; use {' '.join(READERS)}")
    return kind
