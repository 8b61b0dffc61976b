"""Options of `rhapsode compare`."""

from dataclasses import dataclass

from .base import UserError, check_choice, check_positive, option
from .pretrain import ARCHITECTURES, OPTIMIZERS

ORDER = ["ngram", "feedforward", "rnn", "lstm", "transformer"]


@dataclass
class CompareOptions:
    """One table of architectures: validation bits per byte after the same data, one pass over the training text, and
    after the same time. Each is trained by `rhapsode pretrain` with the same tokenizer and the same rows."""

    EXAMPLES = ("rhapsode compare --architectures ngram lstm transformer --dataset book.txt --max_seconds 60",)

    architectures: list[str] = option(ORDER, f"what to compare: {', '.join(ARCHITECTURES)}", section="what is compared")
    preset: str = option("rhapsode-10m", "design of the transformer, see `rhapsode presets`")
    config_overrides: list[str] = option([], "changes to a design, e.g. ngram.order=4 lstm.hidden_size=256")
    dataset: list[str] = option(
        ["stdlib"], "stdlib, files, directories, globs or Hub ids, see `pretrain`", section="data"
    )
    text_column: str = option("text", "column or field of tables that holds the text")
    tokenizer: str | None = option(None, "directory or Hub id; none trains one on the data")
    vocab_size: int = option(8192, "tokens of the tokenizer that is trained where none is given")
    max_seconds: float = option(120.0, "training time of each at equal time, in seconds", section="training")
    max_length: int = option(256, "sequence length in tokens")
    per_device_train_batch_size: int = option(16, "sequences in one step")
    optim: str = option("adamw", "optimizer of all that are trained", OPTIMIZERS)
    learning_rates: list[str] = option([], "peak rates of AdamW in place of the usual ones, e.g. lstm=4e-3")
    bf16: bool | None = option(None, "bfloat16 autocast; none is wherever the hardware has it")
    output_dir: str = option(
        "runs/compare", "directory of the runs, compare.md, compare.png and results.json", section="the command"
    )
    resume: bool = option(False, "go on with the comparison in the directory")
    json: bool = option(False, "print one JSON object in place of the table")
    seed: int = option(0, "of weights and data order")

    def __post_init__(self):
        check_positive(self, "max_seconds", "vocab_size", "per_device_train_batch_size")
        if self.max_length < 2:
            raise UserError(f"--max_length {self.max_length} leaves nothing to predict; use 2 or more")
        for name in self.architectures:
            check_choice("architectures", name, ARCHITECTURES)
        if len(set(self.architectures)) < len(self.architectures) or not self.architectures:
            raise UserError(f"--architectures {' '.join(self.architectures)}: name each once, and at least one")
        for name in ("config_overrides", "learning_rates"):
            for item in getattr(self, name):
                target, separator, _ = item.partition("." if name == "config_overrides" else "=")
                if not separator:
                    form = "architecture.field=value" if name == "config_overrides" else "architecture=rate"
                    raise UserError(f"--{name} {item!r} is not of the form {form}")
                check_choice(name, target, self.architectures)
        for item in self.learning_rates:
            try:
                is_rate = 0 <= float(item.partition("=")[2]) < float("inf")
            except ValueError:
                is_rate = False
            if not is_rate:
                raise UserError(f"--learning_rates {item!r}: the rate is not a number of 0 or more")
