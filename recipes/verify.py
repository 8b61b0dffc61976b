"""Checking the code that a model brings before it runs; the work is done by `rhapsode.hub.code`."""

import sys

from ..hub.code import verify
from .cli import run_command
from .options.base import UserError
from .options.verify import VerifyOptions


def run(options: VerifyOptions) -> None:
    if options.model is None:
        raise UserError("MODEL is missing; for example rhapsode verify exports/mine")
    try:
        print(verify(options.model, options.sha256, options.revision))
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


if __name__ == "__main__":
    sys.exit(run_command("verify", sys.argv[1:]))
