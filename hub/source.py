"""Where a model comes from: a directory, or a repository of the Hub that is fetched and not run.

Names are checked before anything is asked of the network, and what came is looked through (`untrusted.py`) before
anything opens it. Pickles are not even fetched.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import get_token, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from .untrusted import check_folder, refuse_pickles

# What belongs to a repository of ours. Weights are safetensors; no pickle (.bin, .pt) is fetched or sent.
FILES = ("*.safetensors", "*.json", "*.py", "*.md", "*.jinja", "*.txt", "*.model", "*.png", "*.yaml")
BAD_REVISION = re.compile(r"\.\.|@\{|//|\.lock(/|$)|(^|/)\.|[/.]$|^[-/]|[\x00-\x20\x7f~^:?*\[\\]")


def local_folder(source: str | Path, revision: str | None = None, files: tuple[str, ...] = FILES) -> Path:
    """The directory itself, or where the `files` of a Hub repository lie once they are fetched.

    Raises:
        ValueError: no such thing, a name that cannot be one, or a folder that tries to lead elsewhere.
    """
    folder = Path(source)
    if folder.is_dir() and revision is not None:
        raise ValueError(f"revision {revision!r} is for a Hub repository, and {source} is a directory; leave it out")
    if not folder.is_dir():
        check_repository(str(source), what="neither a directory nor a Hub id")
        check_revision(revision)
        with hub_errors(f"{source} cannot be opened"):
            folder = Path(snapshot_download(str(source), revision=revision, allow_patterns=list(files)))
    check_folder(folder)
    return folder


def check_source(source: str | Path, revision: str | None = None, subfolder: str = "", weights: bool = True) -> None:
    """To call before something is loaded from there; nothing is fetched.

    Raises:
        ValueError: a folder whose weights are a pickle, or that leads elsewhere; no name of a revision.
    """
    check_revision(revision)
    folder = Path(source, subfolder)
    if folder.is_dir():
        check_folder(folder)
        if weights:
            refuse_pickles(folder)


def check_repository(name: str, what: str = "no name of a repository") -> None:
    """
    Raises:
        ValueError: the Hub has no such names.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"{name!r} is {what}: {' '.join(str(error).split())}") from error


def check_revision(revision: str | None) -> None:
    """
    Raises:
        ValueError: git has no such names of branches, tags and commits.
    """
    if revision is not None and (not revision or len(revision) > 200 or BAD_REVISION.search(revision)):
        raise ValueError(f"revision {revision!r} is no name of a branch, tag or commit; use letters, digits, - _ . /")


@contextmanager
def hub_errors(what: str, repeat: str = "try again", token: str | None = None) -> Iterator[None]:
    """One line for whatever the client of the Hub raises: it has dozens of kinds. No token is in it."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise ValueError(
                f"{what}: the token is refused ({status}), or the repository is not yours; "
                "`hf auth login`, or set HF_TOKEN, with a token that may do this"
            ) from None
        raise ValueError(f"{what}: {_plain(error, token)}") from None
    except Exception as error:
        raise ValueError(f"{what}: {type(error).__name__}: {_plain(error, token)}; {repeat}") from None


def _plain(error: Exception, token: str | None) -> str:
    """The message and what lies under it, on one line."""
    words = " ".join(str(error).split())
    if error.__cause__ is not None:
        words += f" ({type(error.__cause__).__name__}: {' '.join(str(error.__cause__).split())})"
    for secret in {token, get_token()} - {None, ""}:
        words = words.replace(secret, "***")
    return words[:400]
