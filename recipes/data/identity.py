"""Which tokens a cache holds: a digest of the texts, of the tokenizer and of how the one was made into the other.

Files count by what is in them and by the names that decide their split, not by where they lie. Reading 10 GB to hash it
takes as long as copying it, which is little beside tokenizing; and a large file's digest is remembered under its path,
size and time of change, as git does, so that the next run does not read it at all. (A file that changed within the last
two seconds is not: it could change again without the clock showing it.)
"""

import hashlib
import json
import tempfile
import time
from pathlib import Path

from ..options.base import UserError, one_line
from .corpus import VALIDATION_SHARE, Part
from .hub import revision
from .shards import write_json

FORMAT = 2  # of the shards; another number makes all of them anew
REMEMBERED = 2**20  # bytes from which on a file's digest is worth remembering
MEMORY = "digests.json"


def key_of(
    source: str, split: str, text_column: str, parts: list[Part] | None, tokenizer, cache: Path, share: float
) -> str:
    """Name of the directory below `cache` for the tokens of a source; call it with the lock of `cache` held."""
    files = [source, revision(source)] if parts is None else _file_digests(parts, cache)
    description = [FORMAT, split, text_column, files, tokenizer_digest(tokenizer)]
    description += [share] if share != VALIDATION_SHARE else []  # caches from before there was a choice stay
    return hashlib.sha256(json.dumps(description).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def tokenizer_digest(tokenizer) -> str:
    """Equal for tokenizers that give the same ids for every document."""
    if tokenizer.is_fast:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        content = {k: v for k, v in content.items() if k not in ("truncation", "padding")}  # set anew at each call
    else:
        with tempfile.TemporaryDirectory() as directory:
            saved = tokenizer.save_vocabulary(directory)
            files = {Path(path).name: Path(path).read_bytes().hex() for path in saved if Path(path).is_file()}
        content = [type(tokenizer).__qualname__, tokenizer.get_vocab(), files]
    ids = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    return hashlib.sha256(json.dumps([content, ids], sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def _file_digests(parts: list[Part], cache: Path) -> list[list[str]]:
    memory = cache / MEMORY
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or damaged: then all are hashed again
        known = {}
    digests, learnt = [], {}
    for part in parts:
        try:
            digest, lasting = _digest(part.path, known)
        except OSError as error:
            raise UserError(f"--dataset {part.path}: {one_line(error.strerror or error)}") from error
        digests.append([part.name, digest])
        learnt |= lasting
    if any(known.get(path) != value for path, value in learnt.items()):
        write_json(memory, known | learnt)
    return digests


def _digest(path: Path, known: dict[str, list]) -> tuple[str, dict[str, list]]:
    """The digest, and the entry by which it is to be remembered, if it is."""
    stat, absolute = path.stat(), str(path.resolve())
    *seen, digest = known.get(absolute, [None, None, None])
    if seen != [stat.st_size, stat.st_mtime_ns]:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    lasting = stat.st_size >= REMEMBERED and time.time() - stat.st_mtime > 2
    return digest, {absolute: [stat.st_size, stat.st_mtime_ns, digest]} if lasting else {}
