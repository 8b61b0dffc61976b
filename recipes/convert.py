"""Converting checkpoints between Rhapsode and other families; the work is done by `rhapsode.hub`."""

import shutil
import sys
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer

from ..hub import load_foreign, save_foreign
from ..hub.families import FAMILIES
from ..modeling import RhapsodeForCausalLM
from .cli import run_command
from .options.base import UserError
from .options.convert import ConvertOptions

OURS = "rhapsode"


def run(options: ConvertOptions) -> None:
    if options.list:
        print("\n".join(sorted(FAMILIES)))
        return
    for flag, value in (("--from", options.source), ("--to", options.output_dir)):
        if value is None:
            raise UserError(f"{flag} is missing; give a directory, as in rhapsode convert --from DIR --to OUT")
    directory = Path(options.output_dir)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"--to {directory} is not empty; name a new directory")
    temporary = directory.with_name(f".unfinished-{directory.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model = open_model(options)
        if options.to_family == OURS:
            model.save_pretrained(temporary, max_shard_size=options.max_shard_size)
        else:
            save_foreign(model, temporary, options.to_family, max_shard_size=options.max_shard_size)
        copy_tokenizer(options.source, temporary)
        if directory.exists():
            directory.rmdir()
        temporary.rename(directory)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{directory}: {options.to_family}, {parameters:,} parameters in {str(model.dtype).removeprefix('torch.')}")


def open_model(options: ConvertOptions) -> RhapsodeForCausalLM:
    kind = AutoConfig.from_pretrained(options.source).model_type
    load = RhapsodeForCausalLM.from_pretrained if kind == OURS else load_foreign
    return load(options.source, dtype=options.dtype)


def copy_tokenizer(source: str, directory: Path) -> None:
    """The source's tokenizer, unchanged; a note where it has none."""
    try:
        AutoTokenizer.from_pretrained(source).save_pretrained(directory)
    except (OSError, ValueError, KeyError):
        print(f"rhapsode convert: no tokenizer in {source}; none is written", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command("convert", sys.argv[1:]))
