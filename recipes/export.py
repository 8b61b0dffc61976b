"""Exporting a model as a self-contained Hub repository; the work is done by `rhapsode.hub.export`."""

import sys
from pathlib import Path

from ..hub import export
from .cli import run_command
from .options.base import UserError
from .options.export import ExportOptions
from .options.output import check_parents
from .training.setup import load_tokenizer


def run(options: ExportOptions) -> None:
    check_parents("output_dir", Path(options.output_dir))
    tokenizer = load_tokenizer(options.tokenizer) if options.tokenizer else None
    settings = {name: getattr(options, name) for name in ("dtype", "max_shard_size", "revision", "name", "license")}
    try:
        path = export(options.model, options.output_dir, tokenizer, **settings)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    print(path)


if __name__ == "__main__":
    sys.exit(run_command("export", sys.argv[1:]))
