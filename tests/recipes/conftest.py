"""A small corpus and a small tokenizer, made once."""

import sys
import sysconfig
from pathlib import Path

import pytest
from rhapsode.tokenization.training import train_tokenizer

sys.path.insert(0, str(Path(__file__).parent))  # for what processes that a test starts must import by name

MODULES = ("textwrap.py", "shlex.py", "fnmatch.py", "string.py", "heapq.py", "bisect.py", "calendar.py", "glob.py")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """A directory of eight small texts, real ones: modules of the running Python."""
    directory = tmp_path_factory.mktemp("corpus")
    library = Path(sysconfig.get_paths()["stdlib"])
    for name in MODULES:
        (directory / name).write_text((library / name).read_text(encoding="utf-8"), encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def tokenizer_directory(corpus, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    texts = (path.read_text(encoding="utf-8") for path in sorted(corpus.iterdir()))
    train_tokenizer(texts, vocab_size=512, show_progress=False).save_pretrained(directory)
    return directory
