"""A row of bad input: what to build, what to type, and what the one line must say.

`argv` is typed in a fresh directory. In it stand `{m}` for a small model with its tokenizer, `{t}` for a tokenizer,
`{r}` for a reward model, `{d}` for a directory of texts, `{chats}`, `{pairs}`, `{prompts}` and `{labels}` for files of
rows that are in order. `files` are written into the directory first: texts, bytes, or what a function builds there.
"""

import bz2
import gzip
import json
import lzma
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

LISTENING: list[socket.socket] = []
Build = Callable[[Path, dict[str, str]], None]


class Bad(NamedTuple):
    name: str
    argv: str
    says: tuple[str, ...]
    files: dict[str, str | bytes]
    build: Build | None = None
    needs: str = ""  # a package that may not be there

    @property
    def command(self) -> str:
        return self.argv.split()[0]


def bad(
    name: str, argv: str, *says: str, files: dict | None = None, build: Build | None = None, needs: str = ""
) -> Bad:
    return Bad(name, argv, says, files or {}, build, needs)


def prepare(row: Bad, here: Path, place: dict[str, str]) -> None:
    """Write what the row needs into its directory."""
    for name, content in row.files.items():
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    if row.build:
        row.build(here, place)


# Models with something wrong about them


def broken(*edits: Callable[[Path], None], of: str = "m", name: str = "broken") -> Build:
    """A copy of a model that is in order, after each of the edits."""

    def build(here: Path, place: dict[str, str]) -> None:
        target = Path(shutil.copytree(place[of], here / name))
        for edit in edits:
            edit(target)

    return build


def without(*names: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return edit


def holding(name: str, content: str | bytes) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return edit


def with_fields(name: str, **fields) -> Callable[[Path], None]:
    """The JSON file with other values of some fields."""

    def edit(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return edit


def cut_off(name: str, share: float = 0.5) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[: int(len(raw) * share)])

    return edit


def with_tensors(change: Callable[[dict], dict]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return edit


def occupied(here: Path, place: dict[str, str]) -> None:
    """`{port}` is one that somebody listens on, as long as the tests run."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    LISTENING.append(taken)
    place["port"] = str(taken.getsockname()[1])


# Tables of every kind


def lines(*rows) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def parquet(columns: dict) -> bytes:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def packed(raw: bytes, kind: str) -> bytes:
    if kind == "zst":
        import zstandard

        return zstandard.ZstdCompressor().compress(raw)
    return {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[kind](raw)


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}
