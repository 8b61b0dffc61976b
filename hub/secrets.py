"""Before anything is published: nothing in it that looks like a token, and no token of whoever publishes it."""

import re
from pathlib import Path

TEXTS = {".json", ".py", ".md", ".jinja", ".txt", ".yaml"}
VOCABULARIES = {"tokenizer.json", "vocab.json", "merges.txt"}  # their entries may look like anything
KINDS = {
    "a Hugging Face token": r"\bhf_(oauth_)?[A-Za-z0-9]{30,}",
    "an API key": r"\b(sk|rk)-[A-Za-z0-9_-]{32,}",
    "a GitHub token": r"\b(gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{22,})",
    "an AWS key": r"\bAKIA[0-9A-Z]{16}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}


def refuse_secrets(folder: Path, token: str | None = None) -> None:
    """
    Args:
        token: of whoever publishes; looked for in every text.

    Raises:
        ValueError: something like a token; it names the file and the kind, never the token.
    """
    for path in sorted(path for path in folder.rglob("*") if path.suffix in TEXTS and path.is_file()):
        text = path.read_text(encoding="utf-8", errors="replace")
        if token and token in text:
            raise ValueError(f"{path.name} holds your token; take it out of the run's options, and renew the token")
        if path.name in VOCABULARIES:
            continue
        for kind, pattern in KINDS.items():
            if re.search(pattern, text):
                raise ValueError(f"{path.name} holds what looks like {kind}; take it out before it is published")
