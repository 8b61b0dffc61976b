"""A text as words: what ROUGE compares, and what a search looks for."""

import re


def words_of(text: str) -> list[str]:
    """Runs of letters and digits, in lower case."""
    return re.findall(r"[^\W_]+", text.lower())
