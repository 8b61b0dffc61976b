"""Options of `rhapsode tokenizer`."""

from dataclasses import dataclass

from .base import UserError, check_positive, option

ALGORITHMS = ("bpe", "wordpiece", "unigram", "word", "char")


@dataclass
class TokenizerOptions:
    """Train a tokenizer and write a directory that AutoTokenizer opens; or train all five and compare them."""

    EXAMPLES = (
        "rhapsode tokenizer --dataset book.txt --vocab_size 400 --output_dir runs/tokenizer",
        "rhapsode tokenizer --compare --output_dir runs/tokenizers",
    )

    algorithm: str = option("bpe", "how words are cut; --compare takes all of them", ALGORITHMS, section="tokenizer")
    vocab_size: int = option(8192, "entries of the vocabulary, special tokens included")
    dataset: list[str] = option(["stdlib"], "stdlib, files, directories, globs or Hub ids, see `pretrain`")
    text_column: str = option("text", "column or field of tables that holds the text")
    max_bytes: int | None = option(1_000_000_000, "training text to read, in bytes; none is all of it")
    chat_template: str | None = option(None, "Jinja file to use in place of our chat template")
    output_dir: str = option("runs/tokenizer", "directory to write; what this command wrote there before is replaced")
    compare: bool = option(
        False, "train all algorithms on the same text and measure them on held-out text", section="comparison"
    )
    train_steps: int = option(0, "--compare: steps of a small model on each, for bits per byte; 0 is none")
    preset: str = option("rhapsode-10m", "--compare: design of the small model, see `rhapsode presets`")
    max_length: int = option(256, "--compare: sequence length of the small model, in tokens")
    json: bool = option(False, "print one JSON object in place of the table", section="output")
    seed: int = option(0, "of the small models; learning a vocabulary draws nothing at random")

    def __post_init__(self):
        check_positive(self, "vocab_size", "max_bytes", "max_length")
        if self.train_steps < 0:
            raise UserError(f"--train_steps {self.train_steps} must not be negative")
        if self.train_steps and not self.compare:
            raise UserError(f"--train_steps {self.train_steps} trains the models of --compare; add --compare")
