"""The passages that fit a question best, by BM25, numbered so that an answer can cite them.

    score(q, d) = sum over words w of q  idf(w) tf / (tf + k1 (1 - b + b |d| / mean |d|))
    idf(w) = ln(1 + (N - n + 1/2) / (n + 1/2))

N passages, n of them with the word, tf times in this one of |d| words (Robertson & Zaragoza 2009, "The Probabilistic
Relevance Framework: BM25 and Beyond"; in the form of Lucene, by the library bm25s, arXiv:2407.03618).
"""

import re

import numpy as np
from bm25s import BM25

from ..data.words import words_of
from .passages import Passage

K1, B = 1.2, 0.75
NOTHING_FOUND = "no passage fits"
CITATION = re.compile(r"\[(\d{1,4})\]")


class Index:
    def __init__(self, passages: list[Passage]):
        self.passages = passages
        self._scorer = BM25(k1=K1, b=B, method="lucene")
        self._scorer.index([words_of(f"{p.path} {p.text}") for p in passages], show_progress=False)

    def search(self, query: str, count: int) -> list[Passage]:
        """At most `count` passages that share a word with the query, the best first; of equals the earlier."""
        scores = self.scores(query)
        best = np.argsort(-scores, kind="stable")[:count]
        return [self.passages[i] for i in best if scores[i] > 0]

    def scores(self, query: str) -> np.ndarray:
        """(N,), of each passage."""
        words = [word for word in words_of(query) if word in self._scorer.vocab_dict]
        return self._scorer.get_scores(words) if words else np.zeros(len(self.passages), dtype=np.float32)


class Sources:
    """What has been found for one question, numbered from 1 over all its searches."""

    def __init__(self, index: Index, count: int):
        self.index, self.count, self.found = index, count, []

    def search(self, query: str, count: int | None = None) -> str:
        """The best passages as the model reads them, each with its number and its source."""
        numbers = [self._number(passage) for passage in self.index.search(query, count or self.count)]
        return "\n".join(self._shown(number) for number in numbers) or NOTHING_FOUND

    def _number(self, passage: Passage) -> int:
        if passage not in self.found:
            self.found.append(passage)
        return self.found.index(passage) + 1

    def _shown(self, number: int) -> str:
        passage = self.found[number - 1]
        return f"[{number}] {passage.source}\n{passage.text}"

    def cited(self, answer: str) -> list[int]:
        """The numbers in brackets in an answer that are those of passages, in their order."""
        numbers = {int(number) for number in CITATION.findall(answer)}
        return [n for n in range(1, len(self.found) + 1) if n in numbers]


def search_tool(sources: Sources):
    """The search as a tool, whose passages are cited by the same numbers."""

    def search_documentation(query: str) -> str:
        """Search the documentation.

        Args:
            query: the words to look for
        """
        return sources.search(query)

    return search_documentation


def with_passages(question: str, passages: str) -> str:
    """What the user's turn says to a model that does not search by itself."""
    return f"{passages}\n\n{question}"
