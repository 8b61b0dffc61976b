"""Training a tokenizer, or all five kinds for comparison. What is written appears at once and whole, or not at all."""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..tokenization.algorithms import ALGORITHMS
from ..tokenization.chat_template import read_template
from ..tokenization.comparison import draw_comparison, format_comparison, measure
from ..tokenization.guarding import guards_itself
from ..tokenization.surrogates import mend
from ..tokenization.training import check_vocabulary, train_tokenizer
from .cli import run_command
from .data.corpus import read_documents
from .options.base import RESOLVED, UserError, save_resolved
from .options.output import check_parents
from .options.tokenizer import TokenizerOptions

HEADER = "# rhapsode tokenizer "


def run(options: TokenizerOptions) -> None:
    algorithms = [*ALGORITHMS] if options.compare else [options.algorithm]
    try:
        for algorithm in algorithms:
            check_vocabulary(algorithm, options.vocab_size)
        template = read_template(options.chat_template) if options.chat_template else None
    except ValueError as error:
        raise UserError(str(error)) from error
    if options.train_steps:
        from .training.setup import check_design  # which needs more than training a tokenizer does

        check_design(small_model(options), options.vocab_size)
    with replaced_directory(Path(options.output_dir)) as directory:
        if options.compare:
            compare(options, algorithms, template, directory)
        else:
            train_one(options, template, directory)
        save_resolved(options, directory / RESOLVED, "tokenizer")


def train_one(options: TokenizerOptions, template: str | None, directory: Path) -> None:
    tokenizer, facts = train(options, options.algorithm, template)
    tokenizer.save_pretrained(directory)
    if options.json:
        print(json.dumps({**facts, "output_dir": options.output_dir}))
        return
    print(
        f"{options.algorithm}: {facts['vocab_size']:,} entries from {facts['train_bytes'] / 1e6:,.1f} MB in "
        f"{facts['train_seconds']:.1f} s, in {options.output_dir}"
    )


def train(options: TokenizerOptions, algorithm: str, template: str | None):
    """The tokenizer, and what is to be said about its training."""
    text = Text(options)
    start = time.perf_counter()
    try:
        tokenizer = train_tokenizer(text, algorithm, options.vocab_size, show_progress=sys.stderr.isatty())
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"--dataset {' '.join(options.dataset)}: {error}") from error
    seconds = time.perf_counter() - start
    if template is not None:
        tokenizer.chat_template = template
        tokenizer.response_template = None  # it parses what our own template writes
        if not guards_itself(tokenizer):
            warn(f"{options.chat_template} does not keep special tokens out of messages; see guarding.py")
    if len(tokenizer) < options.vocab_size:
        warn(f"{algorithm}: the text gave {len(tokenizer):,} entries of the {options.vocab_size:,} asked for")
    facts = {
        "algorithm": algorithm,
        "vocab_size": len(tokenizer),
        "train_bytes": text.num_bytes,
        "train_seconds": seconds,
    }
    return tokenizer, facts


class Text:
    """The training texts, up to `max_bytes`; counts the bytes that went through."""

    def __init__(self, options: TokenizerOptions):
        self.options, self.num_bytes = options, 0

    def __iter__(self) -> Iterator[str]:
        options, self.num_bytes = self.options, 0
        for document in read_documents(options.dataset, "train", options.text_column):
            size = len(document.text.encode("utf-8", "replace"))
            if options.max_bytes is not None and self.num_bytes + size > options.max_bytes:
                room = options.max_bytes - self.num_bytes
                self.num_bytes = options.max_bytes
                yield document.text.encode("utf-8", "replace")[:room].decode("utf-8", "ignore")
                return
            self.num_bytes += size
            yield document.text


def compare(options: TokenizerOptions, algorithms: list[str], template: str | None, directory: Path) -> None:
    held_out = [mend(d.text) for d in read_documents(options.dataset, "validation", options.text_column)]
    rows = []
    for algorithm in algorithms:
        tokenizer, facts = train(options, algorithm, template)
        tokenizer.save_pretrained(directory / algorithm)
        row = facts | measure(tokenizer, held_out)
        if options.train_steps:
            # What an unknown token hides would have to be sent as it is, at 8 bits a byte.
            row["bits_per_byte"] = bits_per_byte(options, directory / algorithm) + 8 * row["unknown_bytes"]
        rows.append(row)
    (directory / "comparison.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    draw_comparison(rows, directory / "comparison.png")
    print(json.dumps(rows) if options.json else format_comparison(rows))


def small_model(options: TokenizerOptions, **paths):
    """What `rhapsode pretrain` is asked for with `--train_steps`."""
    from .options.pretrain import PretrainOptions

    same = {name: getattr(options, name) for name in ("preset", "dataset", "text_column", "max_length", "seed")}
    steps = dict.fromkeys(("max_steps", "save_steps", "eval_steps"), options.train_steps)
    return PretrainOptions(**same, **steps, **paths)


def bits_per_byte(options: TokenizerOptions, tokenizer: Path) -> float:
    """Held-out bits per byte of a small model after `train_steps` steps, all settings but the tokenizer the same."""
    from . import pretrain

    with tempfile.TemporaryDirectory() as scratch:
        pretrain.run(small_model(options, tokenizer=str(tokenizer), output_dir=scratch))
        return json.loads((Path(scratch) / "results.json").read_text(encoding="utf-8"))["eval_bits_per_byte"]


@contextmanager
def replaced_directory(target: Path) -> Iterator[Path]:
    """An empty directory that takes the place of `target` if all goes well and otherwise leaves no trace.

    Raises:
        UserError: `target` is something that this command has not made, or cannot be made.
    """
    if target.exists() and not is_ours(target):
        raise UserError(f"--output_dir {target} holds something else than a tokenizer of ours; name another directory")
    check_parents("output_dir", target)
    try:
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.absolute().parent))
    except OSError as error:
        raise UserError(f"--output_dir {target}: {error.strerror}") from error
    try:
        new, old = scratch / "new", scratch / "old"
        new.mkdir()
        yield new
        if target.exists():
            target.rename(old)
        new.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def is_ours(directory: Path) -> bool:
    """Whether the directory is empty or was written by this command."""
    if not directory.is_dir():
        return False
    resolved = directory / RESOLVED
    if resolved.is_file():
        return resolved.read_text(encoding="utf-8").startswith(HEADER)
    return not any(directory.iterdir())


def warn(text: str) -> None:
    print(f"rhapsode tokenizer: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command("tokenizer", sys.argv[1:]))
