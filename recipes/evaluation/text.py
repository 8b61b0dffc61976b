"""Perplexity and bits per byte of documents, together, by source, and one by one.

Documents are told apart by the item of --dataset that they are from and, for finer figures, by their file.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..data.corpus import read_documents
from ..data.tokens import tokenize
from ..options.base import UserError, write_whole
from ..options.evaluate import EvaluateOptions
from ..training.scoring import Score, score_documents
from .likelihood import Opened
from .measured import Values

PART = re.compile(r"[#:]\d+$")  # what `read_documents` puts behind the name of a file: a row, or a piece


class Text(NamedTuple):
    score: Score
    names: list[str]  # of the documents
    sources: list[str]  # and of where they are from

    def values(self, source: str | None = None) -> dict[str, Values]:
        """The figures of all documents, or of those of a source."""
        chosen = np.array([source is None or source == own for own in self.sources], bool)
        nats, targets = self.score.nats[chosen], self.score.targets[chosen]
        return {
            "bits_per_byte": Values(nats / math.log(2), self.score.num_bytes[chosen], "documents", per="bytes"),
            "perplexity": Values(nats, targets, "documents", _perplexity, "tokens"),
            "loss": Values(nats, targets, "documents", per="tokens"),
        }

    def by_source(self, options: EvaluateOptions) -> dict[str, dict[str, Values]]:
        """The figures of all, and where there are several sources, of each."""
        sources = list(dict.fromkeys(self.sources))
        whole = sources[0] if len(sources) == 1 else " ".join(options.texts)
        found = {f"{whole} ({options.split})": self.values()}
        return found | {f"  {source}": self.values(source) for source in sources if len(sources) > 1}

    def summary(self) -> dict:
        score = self.score
        return {
            "bits_per_byte": score.bits_per_byte,
            "perplexity": score.perplexity,
            "loss": score.loss,
            "documents": len(score.nats),
            "tokens": int(score.targets.sum()),
            "bytes": int(score.num_bytes.sum()),
        }

    def rows(self) -> Iterator[dict]:
        """What is known of each document."""
        columns = (self.names, self.sources, self.score.nats, self.score.targets, self.score.num_bytes)
        for name, source, nats, targets, size in zip(*columns, strict=True):
            row = {"document": name, "source": source, "nats": nats, "tokens": int(targets), "bytes": int(size)}
            yield row | {"bits_per_byte": nats / math.log(2) / size if size else None}


def score_text(opened: Opened, options: EvaluateOptions, stride: int) -> Text:
    names, sources = [], []
    stream = tokenize(_named(options, names, sources), opened.tokenizer, f"tokens of {options.split}")
    score = score_documents(
        opened.model,
        stream,
        opened.length,
        stride,
        opened.batch_size,
        opened.autocast,
        show_progress=True,
    )
    if not score.targets.sum() or not score.num_bytes.sum():
        raise UserError(
            f"--dataset {' '.join(options.texts)}: no token of the {options.split} split has one before it, so there "
            "is nothing to predict; give longer documents"
        )
    return Text(score, names, sources)


def save_lines(path: Path, rows: Iterable[dict]) -> None:
    """A JSON object a line, all of them or no file."""
    write_whole(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))


def _named(options: EvaluateOptions, names: list[str], sources: list[str]):
    """The documents; what they are called is put into the two lists as they are read."""
    read = partial(read_documents, split=options.split, text_column=options.text_column)
    pairs = ((source, document) for source in options.texts for document in read([source]))
    for source, document in islice(pairs, options.max_documents):
        names.append(document.name)
        sources.append(PART.sub("", document.name) if options.breakdown == "file" else source)
        yield document


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))
