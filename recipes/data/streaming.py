"""Rows made while training: read, tokenized and packed window by window, with the next window under way.

    documents -> window of about 16 MB of text -> ids -> packed rows, shuffled by the seed

A window is a function of the position in the source at which it begins. So a checkpoint holds that position and the
number of rows taken from the window, and whoever resumes makes the window again: every batch is the same bit for bit.
Each process reads a share of the documents of its own, which depends on the number of processes: that has to stay.
"""

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from ..options.base import UserError
from .layout import BestFitRows, ConcatenatedRows, Row, shares
from .mixture import Schedule, collate
from .packing import plan_best_fit
from .parallel import encode_all
from .sources import Source
from .tokens import TokenStream, stream_of

WINDOW = 2**24  # characters of a window: some thousand rows to shuffle, and seconds to make
BEGINNING = {"window": 0, "epoch": 0, "position": None, "ids": [], "starts": []}


class Window(NamedTuple):
    rows: BestFitRows | ConcatenatedRows | None  # None: too few tokens for one row
    order: list[int]
    counts: dict[str, int]
    following: dict  # where the next window begins


class Windows:
    """The windows of one source, each made from where it begins: the position in the source, and carried tokens."""

    def __init__(self, source: Source, tokenizer, packing: str, length: int, pad_id: int, seed: Sequence[int]):
        self.source, self.packing, self.length, self.pad_id, self.seed = source, packing, length, pad_id, seed
        self.tokenizer = copy.deepcopy(tokenizer)  # works beside the loop's, which a tokenizer does not bear
        self._at: dict | None = None  # where the window begins that the open iterator goes on with
        self._texts: Iterator[str] = iter(())

    def make(self, begin: dict) -> Window:
        texts, is_end = self._read(begin)
        if is_end and not texts and begin["position"] is None:
            raise UserError(f"--dataset {self.source.name}: no text for this process; each needs a document of its own")
        new = stream_of(list(encode_all(texts, self.tokenizer)))
        rows, rest = self._pack(new, begin)
        following = {"window": begin["window"] + 1, "epoch": begin["epoch"] + is_end, **rest}
        following["position"] = None if is_end else self.source.position
        counts = rows.counts() if rows else dict.fromkeys(("rows", "tokens", "padding", "cut"), 0)
        counts |= {"documents": len(texts), "bytes": int(new.num_bytes.sum())}
        rng = np.random.default_rng([*self.seed, begin["window"]])
        self._at = following
        return Window(rows, rng.permutation(counts["rows"]).tolist(), counts, following)

    def _read(self, begin: dict) -> tuple[list[str], bool]:
        """The texts of a window, and whether the epoch ends with it."""
        if begin != self._at or begin["position"] is None:
            self._texts = self.source.texts(begin["epoch"], begin["position"])
        texts, size = [], 0
        for text in self._texts:
            texts.append(text)
            size += len(text)
            if size >= WINDOW:
                return texts, False
        return texts, True

    def _pack(self, new: TokenStream, begin: dict) -> tuple[BestFitRows | ConcatenatedRows | None, dict]:
        """The rows, and the tokens that are carried on to the next window: those of an incomplete row."""
        if self.packing == "best_fit":
            plan = plan_best_fit(new.starts, new.num_tokens, self.length)
            return BestFitRows([new], [plan], self.length, self.pad_id), {"ids": [], "starts": []}
        carried = len(begin["ids"])
        ids = np.concatenate([np.asarray(begin["ids"], np.uint32), new.ids])
        starts = np.concatenate([np.asarray(begin["starts"], np.int64), new.starts + carried])
        used = len(ids) // self.length * self.length
        rest = {"ids": ids[used:].tolist(), "starts": (starts[starts >= used] - used).tolist()}
        stream = TokenStream(ids, starts, new.num_bytes)
        return (ConcatenatedRows([stream], self.length) if used else None), rest


class WindowReader:
    """Row after row of one source; the thread makes the next window while this one is read."""

    def __init__(self, windows: Windows, thread: ThreadPoolExecutor):
        self.windows, self.thread = windows, thread
        self.load_state_dict({"begin": BEGINNING, "taken": 0, "counts": {}})

    def row(self) -> Row:
        self.window = self.window or self._made()
        while self.taken == len(self.window.order):
            self.counts, self.begin, self.taken = self.counts_so_far(), self.window.following, 0
            self.window = self._made()
        self.taken += 1
        return self.window.rows.row(self.window.order[self.taken - 1])

    def counts_so_far(self) -> dict[str, int]:
        """Of the windows that were begun."""
        now = self.window.counts if self.window else {}
        return {key: self.counts.get(key, 0) + now.get(key, 0) for key in {**self.counts, **now}}

    def _made(self) -> Window:
        future = self.next or self.thread.submit(self.windows.make, self.begin)
        window = future.result()
        self.next = self.thread.submit(self.windows.make, window.following)
        return window

    def state_dict(self) -> dict:
        return {"begin": self.begin, "taken": self.taken, "counts": self.counts}

    def load_state_dict(self, state: dict) -> None:
        self.begin, self.taken, self.counts = state["begin"], state["taken"], state["counts"]
        self.window: Window | None = None
        self.next: Future | None = None


class StreamedRows:
    """The rows of this process: endless, and one after the other. There is no length."""

    def __init__(self, sources: Sequence[Windows], weights: Sequence[float], index: int, count: int):
        thread = ThreadPoolExecutor(1, "windows")
        self.readers = [WindowReader(windows, thread) for windows in sources]
        self.schedule = Schedule(weights)
        self.process = {"index": index, "count": count}
        self.taken = self.start = 0

    def batch(self, start: int, count: int) -> dict[str, torch.Tensor]:
        """The next `count` rows. `start` counts the rows of all processes, as for rows that can be had in any order.

        Raises:
            ValueError: a `start` before the end of the last batch.
        """
        if start < self.start:
            raise ValueError(f"start={start}, but the stream has been read up to {self.start}; it cannot go back")
        self.start = start + count
        sources = [self.schedule.locate(n)[0] for n in range(self.taken, self.taken + count)]
        self.taken += count
        return collate([self.readers[source].row() for source in sources])

    def identity(self) -> list[str | None]:
        """Of each source its files, by name and size: a shorter one has other documents behind every position."""
        return [reader.windows.source.identity() for reader in self.readers]

    def state_dict(self) -> dict:
        """The position of this process; JSON can hold it."""
        readers = [reader.state_dict() for reader in self.readers]
        return {"process": self.process, "taken": self.taken, "start": self.start, "sources": readers}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            UserError: another number of processes.
        """
        before, now = state["process"], self.process
        if before["count"] != now["count"]:
            raise UserError(
                f"--resume of a stream with {now['count']} processes: its documents were divided among "
                f"{before['count']}, each at a position of its own; start {before['count']} again"
            )
        assert before == now, "each process keeps its own state"
        self.taken, self.start = state["taken"], state["start"]
        for reader, reader_state in zip(self.readers, state["sources"], strict=True):
            reader.load_state_dict(reader_state)

    @property
    def statistics(self) -> dict:
        """What this process has read so far, with the shares of padding and of cut documents."""
        each = [reader.counts_so_far() for reader in self.readers]
        total = {key: sum(counts.get(key, 0) for counts in each) for counts in each for key in counts}
        held = {key: total.get(key, 0) for key in ("documents", "bytes", "rows", "tokens")}
        return held | shares(held | {key: total.get(key, 0) for key in ("padding", "cut")})
