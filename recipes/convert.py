"""Converting checkpoints between Rhapsode and other families, and to GGUF; the work is done by `rhapsode.hub`."""

import shutil
import sys
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer

from ..hub import load_foreign, save_foreign
from ..hub.code import check_before_loading
from ..hub.families import FAMILIES
from ..hub.opening import load_whole, opening
from ..modeling import RhapsodeForCausalLM
from .cli import run_command
from .data.corpus import read_documents
from .options.base import UserError
from .options.convert import ConvertOptions
from .options.output import check_parents
from .training.setup import load_tokenizer, refuse_other_heads

OURS = "rhapsode"


def run(options: ConvertOptions) -> None:
    if options.list:
        print("\n".join(sorted(FAMILIES)))
        return
    for flag, value in (("--from", options.source), ("--to", options.output_dir)):
        if value is None:
            raise UserError(f"{flag} is missing; give a directory, as in rhapsode convert --from DIR --to OUT")
    check_parents("to", Path(options.output_dir))
    if Path(options.output_dir).name.lower() in ("gguf", ".gguf"):
        raise UserError(f"--to {options.output_dir}: name the file, as in --to model.gguf")
    write = write_gguf if options.output_dir.lower().endswith(".gguf") else write_directory
    try:
        print(write(options, Path(options.output_dir)))
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


def write_directory(options: ConvertOptions, directory: Path) -> str:
    """A checkpoint of ours, or of another family; returns what to say about it."""
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
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return f"{directory}: {options.to_family}, {size(model)}"


def write_gguf(options: ConvertOptions, path: Path) -> str:
    """One file for llama.cpp; returns what to say about it."""
    from ..hub.gguf import save_gguf  # only here: the package `gguf` is an extra

    if path.exists():
        raise UserError(f"--to {path} exists; name a new file")
    model, tokenizer = open_model(options), load_tokenizer(options.source)
    texts = (document.text for document in read_documents(options.dataset, "validation", options.text_column))
    family = None if options.to_family == OURS else options.to_family
    done = save_gguf(model, path, tokenizer, texts, family)
    if done["same_tokens"] < 1:
        note = "llama.cpp does not know how this tokenizer cuts words; with its"
        share = f"{done['pre_tokenizer']!r} {done['same_tokens']:.1%} of the tokens of {' '.join(options.dataset)}"
        print(f"rhapsode convert: {note} {share} are the same", file=sys.stderr)
    return f"{path}: gguf, {done['family']}, {size(model)}"


def size(model) -> str:
    parameters = sum(p.numel() for p in model.parameters())
    return f"{parameters:,} parameters in {str(model.dtype).removeprefix('torch.')}"


def open_model(options: ConvertOptions) -> RhapsodeForCausalLM:
    with opening(f"--from {options.source}", UserError):
        config = AutoConfig.from_pretrained(options.source)
        refuse_other_heads(config)
        if config.model_type != OURS:
            return load_foreign(options.source, dtype=options.dtype)
        check_before_loading(options.source)
        return load_whole(RhapsodeForCausalLM, options.source, dtype=options.dtype)


def copy_tokenizer(source: str, directory: Path) -> None:
    """The source's tokenizer, unchanged; a note where it has none."""
    try:
        AutoTokenizer.from_pretrained(source).save_pretrained(directory)
    except (OSError, ValueError, KeyError):
        print(f"rhapsode convert: no tokenizer in {source}; none is written", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command("convert", sys.argv[1:]))
