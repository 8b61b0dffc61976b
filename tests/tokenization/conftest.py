"""Small tokenizers of every kind, trained once on a few modules of this Python."""

import functools
import inspect
import random

import pytest
from rhapsode.tokenization.algorithms import ALGORITHMS
from rhapsode.tokenization.training import train_tokenizer

MODULES = ("ast", "bisect", "heapq", "shlex", "textwrap")
VOCAB_SIZE = 900
LOSSLESS = ("bpe", "wordpiece", "unigram")


@functools.cache
def sources() -> list[str]:
    return [inspect.getsource(__import__(name)) for name in MODULES]


@functools.cache
def trained(algorithm: str):
    return train_tokenizer(sources(), algorithm, VOCAB_SIZE, show_progress=False)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return sources()


@pytest.fixture(params=[*ALGORITHMS])
def any_tokenizer(request):
    return trained(request.param)


@pytest.fixture(params=LOSSLESS)
def lossless_tokenizer(request):
    return trained(request.param)


@pytest.fixture
def bpe():
    return trained("bpe")


@pytest.fixture
def rng(seed) -> random.Random:
    return random.Random(seed)
