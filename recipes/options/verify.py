"""Options of `rhapsode verify`."""

from dataclasses import dataclass

from .base import option


@dataclass
class VerifyOptions:
    """Whether the code that a model brings is Rhapsode's, byte for byte, before anything of it runs: compares its hash
    with that of the installed code, or with one that you know. Exit status 2 where it is another."""

    model: str | None = option(None, "directory or Hub id", positional=True)
    sha256: str | None = option(None, "what the hash must be; none compares with the installed Rhapsode")
    revision: str | None = option(None, "branch, tag or commit of a Hub id; none is main")
