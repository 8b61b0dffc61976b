"""Texts in files of every kind, and what reading them gives."""

import bz2
import csv
import gzip
import importlib.util
import io
import json
import lzma
import random
from pathlib import Path

import pytest
from rhapsode.recipes.data.corpus import read_documents
from rhapsode.recipes.options.base import UserError

HAS_ZSTD = importlib.util.find_spec("zstandard") is not None
needs_zstd = pytest.mark.skipif(not HAS_ZSTD, reason="needs zstandard")
KINDS = ("txt", "md", "py", "jsonl", "json", "parquet", "csv")
TABLES = ("jsonl", "json", "parquet", "csv")
PACKINGS = ("gz", "bz2", "xz", pytest.param("zst", marks=needs_zstd))
ALPHABET = "abcdefgh ,\"'{}\\äß—字😀\t"


def random_texts(count: int) -> list[str]:
    """Distinct texts with quotes, commas, line ends and characters of one to four bytes."""
    draw = random.Random(random.random())
    return [
        f"{i} " + "\n".join("".join(draw.choices(ALPHABET, k=draw.randint(0, 60))) for _ in range(draw.randint(1, 6)))
        for i in range(count)
    ]


def table_bytes(kind: str, rows: list, column: str = "text") -> bytes:
    """A table of one column of texts (or of whatever `rows` holds) and another of numbers."""
    records = [{"number": i, column: row} for i, row in enumerate(rows)]
    if kind == "jsonl":
        return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode()
    if kind == "json":
        return json.dumps(records, indent=1).encode()
    if kind == "csv":
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, ["number", column])
        writer.writeheader()
        writer.writerows(records)
        return out.getvalue().encode()
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table({"number": list(range(len(rows))), column: rows}), out, row_group_size=3)
    return out.getvalue()


def pack(raw: bytes, packing: str) -> bytes:
    if packing == "zst":
        import zstandard

        half = len(raw) // 2  # two frames, as parallel packers write them
        return b"".join(zstandard.ZstdCompressor().compress(part) for part in (raw[:half], raw[half:]))
    return {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[packing](raw)


def texts_of(*sources, split: str = "all", **kwargs) -> list[str]:
    return [document.text for document in read_documents([str(s) for s in sources], split, **kwargs)]


def complaint(*sources, split: str = "all", **kwargs) -> str:
    """The one line that a source is refused with."""
    with pytest.raises(UserError) as caught:
        texts_of(*sources, split=split, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("--dataset ")
    return message


def write_texts(directory: Path, texts: list[str], packing: str = "") -> None:
    directory.mkdir()
    for i, text in enumerate(texts):
        raw = text.encode()
        suffix = f".{packing}" if packing else ""
        (directory / f"{i:03}.txt{suffix}").write_bytes(pack(raw, packing) if packing else raw)
