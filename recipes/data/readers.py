"""Reading documents from one file: plain text, tables, and either of them compressed.

A text file is one document; one above half a mebibyte is several, cut at the ends of paragraphs, or of lines where
there are none. So no file is held in memory as a whole but .json, whose syntax ends with its last byte: large corpora
are .jsonl.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..options.base import UserError, one_line

Named = tuple[str, str]
LONGEST_TEXT = 2**19  # bytes of a text file that are read as one document
ROWS_AT_ONCE = 256  # of a parquet file
UTF8 = "utf-8-sig"  # without the byte order mark that Windows puts before a file


def _open_zstd(path: Path, mode: str):
    return io.BufferedReader(_ZstdStream(path, mode))


class _ZstdStream(io.RawIOBase):
    """Decompresses frame after frame; zstandard's own reader takes a file that was cut off for a whole one."""

    def __init__(self, path: Path, mode: str):
        self._file, self._rest = path.open(mode), b""
        self._chunks = _zstd_chunks(path, self._file)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._rest:
            self._rest = next(self._chunks, None)
            if self._rest is None:
                return 0
        part, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self._file.close()
        super().close()


def _zstd_chunks(path: Path, stream) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise UserError(f"--dataset {path}: pip install zstandard to read .zst") from None
    decompressor, frame = zstandard.ZstdDecompressor(), None
    try:
        while data := stream.read(2**16):
            while data:
                frame = frame or decompressor.decompressobj()
                yield frame.decompress(data)
                data, frame = frame.unused_data, None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise OSError(str(error)) from error
    if frame is not None:
        raise EOFError("Compressed file ended before the end of a frame")


COMPRESSIONS: dict[str, Callable] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zstd}


class Reader(NamedTuple):
    read: Callable[[Path, object, str], Iterator[Named]]
    is_table: bool


def suffixes(path: Path) -> tuple[str, str]:
    """(kind, compression), e.g. (".jsonl", ".gz"), either possibly empty."""
    compression = path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else ""
    inner = path.with_suffix("") if compression else path
    return inner.suffix.lower(), compression


def read_file(path: Path, text_column: str) -> Iterator[Named]:
    """(name, text) of each document of the file.

    Raises:
        UserError: naming the file and the line or row, for bytes, syntax or columns that cannot be read.
    """
    kind, compression = suffixes(path)
    try:
        with COMPRESSIONS.get(compression, Path.open)(path, mode="rb") as stream:
            yield from READERS[kind].read(path, stream, text_column)
    except UnicodeDecodeError as error:
        raise UserError(f"--dataset {path}: byte {error.start} is not UTF-8; convert the file first") from error
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"--dataset {path}: {one_line(getattr(error, 'strerror', None) or error)}") from error


def _text(path, stream, text_column):
    begin = 0
    for number, piece in enumerate(_pieces(stream), 1):
        try:
            yield (f"{path}#{number}" if begin else str(path)), piece.decode("utf-8" if begin else UTF8)
        except UnicodeDecodeError as error:
            error.start += begin
            raise
        begin += len(piece)


def _pieces(stream) -> Iterator[bytes]:
    """The bytes of the stream in pieces of at most `LONGEST_TEXT`, each of them ending where a reader would pause."""
    rest = stream.read(LONGEST_TEXT + 1)
    while len(rest) > LONGEST_TEXT:
        ends = (rest.rfind(mark, LONGEST_TEXT // 2, LONGEST_TEXT) + len(mark) for mark in (b"\n\n", b"\n", b" "))
        cut = next((end for end in ends if end > LONGEST_TEXT // 2), LONGEST_TEXT)
        while cut > LONGEST_TEXT - 4 and rest[cut] & 0xC0 == 0x80:  # within a character
            cut -= 1
        yield rest[:cut]
        rest = rest[cut:] + stream.read(cut)
    yield rest


def _lines(path, stream):
    """(number, text) of each line."""
    for number, line in enumerate(stream, 1):
        try:
            yield number, line.decode(UTF8 if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            where = f"{path}, line {number}: byte {error.start} of the line"
            raise UserError(f"--dataset {where} is not UTF-8; convert the file first") from error


def _json_lines(path, stream, text_column):
    for number, line in _lines(path, stream):
        if line.strip():
            row = _parse_json(path, line.strip(), number)
            yield f"{path}:{number}", text_of(row, text_column, f"{path}, line {number}")


def _json(path, stream, text_column):
    loaded = _parse_json(path, stream.read().decode(UTF8), 1)
    for number, row in enumerate(loaded if isinstance(loaded, list) else [loaded], 1):
        yield f"{path}#{number}", row if isinstance(row, str) else text_of(row, text_column, f"{path}, row {number}")


def _parse_json(path, text, number):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # not only JSONDecodeError: integers and nesting have limits
        line, reason = number + getattr(error, "lineno", 1) - 1, getattr(error, "msg", error)
        raise UserError(f"--dataset {path}: line {line} is not JSON ({reason})") from error


def _csv(path, stream, text_column):
    csv.field_size_limit(sys.maxsize)
    rows = csv.DictReader((line for _, line in _lines(path, stream)), strict=True)
    try:
        for row in rows:
            yield f"{path}:{rows.line_num}", text_of(row, text_column, f"{path}, line {rows.line_num}")
    except csv.Error as error:
        raise UserError(f"--dataset {path}: the row from line {rows.line_num + 1} on is not CSV ({error})") from error


def _parquet(path, stream, text_column):
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source = stream if stream.seekable() else io.BytesIO(stream.read())
        table = pq.ParquetFile(source, buffer_size=2**20)  # with a buffer, pages are read one by one
        if text_column not in table.schema_arrow.names:
            text_of(dict.fromkeys(table.schema_arrow.names), text_column, str(path))
        batches = table.iter_batches(ROWS_AT_ONCE, columns=[text_column])
        for number, value in enumerate((value for batch in batches for value in batch.column(0).to_pylist()), 1):
            yield f"{path}#{number}", text_of({text_column: value}, text_column, f"{path}, row {number}")
    except pa.ArrowException as error:
        raise UserError(f"--dataset {path}: not a parquet file, or a damaged one ({one_line(error)})") from error


def text_of(row, text_column: str, where: str) -> str:
    """The text of one row of a table; a `UserError` says where there is none."""
    if not isinstance(row, dict):
        raise UserError(f"--dataset {where}: {type(row).__name__} and not an object with a {text_column!r} field")
    if text_column not in row:
        raise UserError(f"--dataset {where}: no column {text_column!r}; --text_column takes {', '.join(map(str, row))}")
    if not isinstance(row[text_column], str):
        raise UserError(f"--dataset {where}: column {text_column!r} holds {type(row[text_column]).__name__}, not text")
    return row[text_column]


READERS = {
    ".txt": Reader(_text, False),
    ".md": Reader(_text, False),
    ".py": Reader(_text, False),
    ".jsonl": Reader(_json_lines, True),
    ".json": Reader(_json, True),
    ".parquet": Reader(_parquet, True),
    ".csv": Reader(_csv, True),
}
