"""Rows of tables from local files and from the Hub, by split.

A file belongs to the split that its name, or that of a directory below the source, has as a word (`train.jsonl`,
`validation/0.parquet`); without one it is train. On the Hub the splits are the dataset's own, and where none is called
`train` the only one that begins so counts (`train_sft`).
"""

import csv
import io
import json
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..data.corpus import parts_of
from ..data.hub import hub_errors
from ..data.readers import COMPRESSIONS, UTF8, suffixes
from ..options.base import UserError, one_line

SPLIT_WORDS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "val", "dev"},
    "test": {"test", "testing", "eval", "evaluation"},
}


class Row(NamedTuple):
    where: str
    values: dict


Tables = dict[str, Callable[[], Iterator[Row]]]


def open_tables(source: str) -> Tables:
    """For each split of the source a function that reads its rows; `where` names file and row.

    Raises:
        UserError: no such file or dataset, a kind of file that holds no such rows; on reading, what is damaged.
    """
    parts = parts_of(source, "all")
    if parts is None:
        return _hub_tables(source)
    files: dict[str, list[Path]] = {}
    for part in parts:
        if suffixes(part.path)[0] not in READERS:
            raise UserError(f"--dataset {part.path}: rows are read from {', '.join(READERS)} files")
        files.setdefault(_split_named(part.name), []).append(part.path)
    return {split: partial(_read_files, paths) for split, paths in files.items()}


def _split_named(name: str) -> str:
    words = set(re.findall(r"[a-z]+", name.lower()))
    return next((split for split, known in SPLIT_WORDS.items() if words & known), "train")


def _read_files(paths: list[Path]) -> Iterator[Row]:
    for path in paths:
        kind, compression = suffixes(path)
        try:
            with COMPRESSIONS.get(compression, Path.open)(path, mode="rb") as stream:
                yield from READERS[kind](path, stream)
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise UserError(f"--dataset {path}: {one_line(getattr(error, 'strerror', None) or error)}") from error


def _json_lines(path: Path, stream) -> Iterator[Row]:
    for number, line in enumerate(stream, 1):
        where = f"{path}, line {number}"
        if line.strip():
            yield Row(where, _parse(line, where))


def _json(path: Path, stream) -> Iterator[Row]:
    loaded = _parse(stream.read(), str(path))
    for number, row in enumerate(loaded if isinstance(loaded, list) else [loaded], 1):
        yield Row(f"{path}, row {number}", row)


def _parse(raw: bytes, where: str):
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one
        raise UserError(f"--dataset {where} is not JSON in UTF-8 ({one_line(error)})") from error


def _csv(path: Path, stream) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    try:
        rows = csv.DictReader(io.TextIOWrapper(stream, UTF8, newline=""), strict=True)
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if None in row or None in row.values():
                raise UserError(
                    f"--dataset {where}: the header has {len(rows.fieldnames)} fields, and the row another number"
                )
            yield Row(where, row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"--dataset {path}: not CSV in UTF-8 ({one_line(error)})") from error


def _parquet(path: Path, stream) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = (row for batch in pq.ParquetFile(stream).iter_batches(1024) for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            yield Row(f"{path}, row {number}", row)
    except pa.ArrowException as error:
        raise UserError(f"--dataset {path}: not a parquet file, or a damaged one ({one_line(error)})") from error


READERS = {".jsonl": _json_lines, ".json": _json, ".parquet": _parquet, ".csv": _csv}


def _hub_tables(source: str) -> Tables:
    import datasets

    name, _, configuration = source.partition(":")
    with hub_errors(source, lambda: 0):
        available = datasets.get_dataset_split_names(name, configuration or None)
    tables = {}
    for split in SPLIT_WORDS:
        own = [split] if split in available else [other for other in available if other.startswith(split)]
        if len(own) == 1:
            tables[split] = partial(_read_hub, source, own[0])
    if not tables:
        raise UserError(
            f"--dataset {source}: has the splits {', '.join(available)}, and none is train, validation or test"
        )
    return tables


def _read_hub(source: str, split: str) -> Iterator[Row]:
    import datasets

    name, _, configuration = source.partition(":")
    with hub_errors(source, lambda: 0):
        table = datasets.load_dataset(name, configuration or None, split=split)
    classes = {name: kind for name, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)}
    for number, row in enumerate(table, 1):
        # Below zero stands for a label that is kept secret.
        named = {name: kind.int2str(row[name]) for name, kind in classes.items() if (row[name] or 0) >= 0}
        yield Row(f"{source}, {split} row {number}", row | dict.fromkeys(classes) | named)
