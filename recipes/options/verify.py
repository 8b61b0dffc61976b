"""Options of `rhapsode verify`."""

import re
from dataclasses import dataclass

from .base import UserError, option


@dataclass
class VerifyOptions:
    """Whether the code that a model brings is Rhapsode's, byte for byte, before anything of it runs: compares its hash
    with that of the installed code, or with one that you know. Exit status 2 where it is another."""

    EXAMPLES = (
        "rhapsode verify exports/mine",
        "rhapsode verify owner/mine --revision v1",
    )

    model: str | None = option(None, "directory or Hub id", positional=True)
    sha256: str | None = option(None, "what the hash must be; none compares with the installed Rhapsode")
    revision: str | None = option(None, "branch, tag or commit of a Hub id; none is main")

    def __post_init__(self):
        if self.sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", self.sha256):
            raise UserError(f"--sha256 {self.sha256!r} is no hash; it has 64 digits and letters from a to f")
