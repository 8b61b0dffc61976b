"""Publishing a model on the Hub; the work is done by `rhapsode.hub.push`."""

import sys

from ..hub.push import push
from .cli import run_command
from .options.base import UserError
from .options.push import PushOptions
from .training.setup import load_tokenizer


def run(options: PushOptions) -> None:
    for name, value in (("MODEL", options.model), ("--repo_id", options.repo_id)):
        if value is None:
            raise UserError(f"{name} is missing; for example rhapsode push runs/mine --repo_id owner/name")
    settings = dict(vars(options))
    settings["tokenizer"] = load_tokenizer(options.tokenizer) if options.tokenizer else None
    try:
        print(push(settings.pop("model"), **settings))
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


if __name__ == "__main__":
    sys.exit(run_command("push", sys.argv[1:]))
