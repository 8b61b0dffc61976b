"""Options of `rhapsode classify`."""

from dataclasses import dataclass

from .alignment import AlignmentOptions
from .base import UserError, check_each, option

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


@dataclass
class ClassifyOptions(AlignmentOptions):
    """A classifier of texts, or of pairs of texts, as GPT-1: a new linear head on the last token of a pretrained model,
    all of which is trained. Labels that are names, whole numbers or true and false are classes, fractions are a
    regression, lists are several labels at once. --learning_rate none is 2e-5, and ten times as much with --use_peft;
    models of some millions of parameters want 5e-4."""

    EXAMPLES = (
        "rhapsode classify --config recipes/configs/classify.yaml",
        "rhapsode classify --model runs/pretrain --dataset reviews.csv --text_column review --label_column stars",
    )

    output_dir: str = option("runs/classify", "the run directory")
    dataset: str = option("stdlib", "stdlib (offline: sentences), a .jsonl, .csv or .parquet file, or a Hub id")
    max_length: int | None = option(None, "tokens of a row at most, longer ones are left out; none is the model's")
    truncation: bool = option(
        False, "cut the texts of longer rows at the end in place of leaving the rows out", section="data"
    )
    text_column: str = option("text", "column of the text")
    text_pair_column: str | None = option(None, "column of a second text; none is text_pair, if there is one")
    label_column: str = option("label", "column of the label")
    problem_type: str | None = option(None, "kind of the labels; none is by the labels", (SINGLE, MULTI, REGRESSION))
    lm_coef: float = option(
        0.0, "weight of the language-model loss beside that of the labels; GPT-1 had 0.5", section="the loss"
    )
    freeze: list[str] = option(
        [], "shell patterns of the parameters that stay as they are, such as 'model.*'", section="optimization"
    )

    def __post_init__(self):
        super().__post_init__()
        check_each(self, ("lm_coef",), lambda value: value >= 0, "must not be negative")
        if self.freeze and self.use_peft:
            raise UserError("--freeze with --use_peft: with adapters only they and the head are trained; use one")
