"""Text to ids in several processes, in order: what comes out depends on the texts and the tokenizer alone.

The tokenizer encodes the texts of a batch on several threads, but turning them into arrays is one thread's work, which
is what other processes are for. They take seconds to start; the first `ALONE` characters are therefore encoded here.
Processes are spawned and import no torch: forking one that has threads can hang, and torch takes 200 MB.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain
from types import ModuleType
from typing import NamedTuple

import numpy as np

from ...tokenization.encoding import encode_documents
from ..options.base import UserError

BATCH = 2**18  # characters that are given to the tokenizer at once, which takes 200 times their memory
ALONE = 2**25  # characters that are encoded before others are asked to help


class Encoded(NamedTuple):
    """The ids of some documents one after the other, how many each has, and how many bytes of UTF-8 each was."""

    ids: np.ndarray
    lengths: np.ndarray
    num_bytes: np.ndarray


def encode(tokenizer, texts: list[str], dtype=np.uint32) -> Encoded:
    encoded = encode_documents(tokenizer, texts)
    lengths = np.fromiter(map(len, encoded), np.int64, len(texts))
    ids = np.fromiter(chain.from_iterable(encoded), dtype, lengths.sum())
    sizes = (len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return Encoded(ids, lengths, np.fromiter(sizes, np.int64, len(texts)))


def encode_all(texts: Iterable[str], tokenizer, dtype=np.uint32, processes: int = 1) -> Iterator[Encoded]:
    """The texts in batches, in their order."""
    batches, done = _batches(texts), 0
    for batch in batches:
        done += sum(map(len, batch))
        yield encode(tokenizer, batch, dtype)
        if processes > 1 and done >= ALONE:
            break
    yield from _encode_elsewhere(batches, tokenizer, dtype, processes)


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode_elsewhere(batches: Iterator[list[str]], tokenizer, dtype, processes: int) -> Iterator[Encoded]:
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, spawn, _start_worker, (tokenizer, dtype))
    waiting = deque()
    try:
        for batch in batches:
            with _without_main():
                waiting.append(pool.submit(_encode_in_worker, batch))
            if len(waiting) > 2 * processes:  # enough for nobody to wait, and no more text in memory
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(f"--num_proc {processes}: a process died, of too little memory maybe; use fewer") from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _without_main():
    """A spawned process imports the main module of the one that starts it: training, for nothing."""
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


_worker = {}  # the tokenizer and the type of ids: filled once in each worker, never in the process that starts them


def _start_worker(tokenizer, dtype) -> None:
    _worker.update(tokenizer=tokenizer, dtype=dtype)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()  # also of SIGKILL, after which nobody would close the pool
    os._exit(1)


def _encode_in_worker(texts: list[str]) -> Encoded:
    return encode(_worker["tokenizer"], texts, _worker["dtype"])
