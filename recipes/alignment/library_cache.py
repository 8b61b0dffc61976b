"""What was read from the library's sources, kept in a file: reading them takes seconds, and every process reads them.

The name of the file is a digest of the interpreter's version, of each source's name, size and time of change, and of
the code that reads them. So nothing that is kept can be out of date, and the file may be deleted at any time. Where it
cannot be written, as in a container whose home is read-only, the sources are read each time.
"""

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

from ..data import building
from ..options.base import write_whole


def recalled(files: list[tuple[str, Path]], code: Path, make: Callable[[], dict]) -> dict:
    """What `make` returns, or returned for the same files when the code was the same; a dictionary of JSON's types."""
    path = Path(building.DEFAULT_CACHE).expanduser() / f"library-{_digest(files, code)}.json"
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):  # none yet, or damaged
        made = make()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(made, ensure_ascii=True))
    return made


def _digest(files: list[tuple[str, Path]], code: Path) -> str:
    states = [(name, state.st_size, state.st_mtime_ns) for name, state in ((name, path.stat()) for name, path in files)]
    description = [sys.version, code.read_text(encoding="utf-8"), states]
    return hashlib.sha256(json.dumps(description).encode("utf-8", "surrogatepass")).hexdigest()[:32]
