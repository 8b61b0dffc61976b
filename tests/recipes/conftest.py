"""A small corpus and a small tokenizer, made once."""

import sys
import sysconfig
from pathlib import Path

import pytest
from rhapsode import RhapsodeForCausalLM
from rhapsode.recipes.options.pretrain import PretrainOptions
from rhapsode.tokenization.training import train_tokenizer
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent))  # for what processes that a test starts must import by name

from scripted_chat import save_model, write_documents

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


@pytest.fixture(scope="session")
def chat_directory(tokenizer_directory, tmp_path_factory) -> str:
    """A model with random weights that chats, in its directory."""
    return save_model(tmp_path_factory.mktemp("model"), tokenizer_directory)


@pytest.fixture(scope="module")
def opened(chat_directory):
    """That model with its tokenizer; a test may change them."""
    return RhapsodeForCausalLM.from_pretrained(chat_directory), AutoTokenizer.from_pretrained(chat_directory)


@pytest.fixture
def documents(tmp_path):
    return write_documents(tmp_path / "documents")


@pytest.fixture
def options(corpus, tokenizer_directory, tmp_path):
    """Options of a pretraining run of a few seconds, with changes."""

    def make(**changes) -> PretrainOptions:
        return PretrainOptions(
            **{
                "preset": "rhapsode-10m-tiny",
                "dataset": [str(corpus)],
                "tokenizer": str(tokenizer_directory),
                "output_dir": str(tmp_path / "run"),
                "max_length": 64,
                "max_steps": 12,
                "per_device_train_batch_size": 4,
                "save_steps": 4,
                "eval_steps": 6,
                "logging_steps": 1,
                "max_eval_tokens": 500,
                "sample_tokens": 8,
                "bf16": False,
                "data_cache": str(tmp_path / "shards"),
                **changes,
            }
        )

    return make
