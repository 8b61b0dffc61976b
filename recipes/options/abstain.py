"""Options of `rhapsode abstain`."""

from dataclasses import dataclass, fields

from .base import UserError, check_each, check_positive, option

WAYS = ("none", "sft", "dpo")
NEEDED_TO_MEASURE = {"model", "tokenizer", "trust_remote_code", "output_dir", "overwrite_output_dir", "before"}


@dataclass
class AbstainOptions:
    """Teach a model to say "I don't know." where it does not: ask it questions whose answers are known, several times
    each, and write data that keep what it gets right and abstain from the rest, for `rhapsode sft` (sft.jsonl) and
    `rhapsode dpo` (preferences.jsonl). The report says how well agreement among its answers tells the right ones, and
    how it abstains on held-out questions: before, and with --train, or later with --before, after."""

    EXAMPLES = (
        "rhapsode abstain --config recipes/configs/abstain.yaml",
        "rhapsode abstain --model runs/sft --train dpo",
    )

    model: str = option(
        "runs/sft",
        "directory or Hub id of a model that answers, usually of rhapsode sft",
        section="model and run directory",
    )
    tokenizer: str | None = option(None, "directory or Hub id; none is the model's own")
    trust_remote_code: bool = option(False, "run the model code that the directory or repository brings")
    output_dir: str = option("runs/abstain", "where data and report go, and the trained model into sft or dpo in it")
    overwrite_output_dir: bool = option(False, "delete what such a run has left in the directory")
    resume: bool = option(False, "go on with the run in the directory; sampled answers stay, and --train may be added")
    before: str | None = option(
        None, "directory of an abstain run: only ask --model its held-out questions, and compare"
    )
    dataset: str = option(
        "stdlib",
        "stdlib (offline), a .jsonl or .parquet file, a Hub id: prompt and reference",
        section="questions and answers",
    )
    max_samples: int | None = option(1000, "questions of the training data; none is all")
    max_eval_samples: int | None = option(200, "held-out questions; none is all")
    num_generations: int = option(4, "answers sampled to each question")
    temperature: float = option(1.0, "of sampling")
    max_new_tokens: int = option(64, "tokens of an answer at most")
    per_device_eval_batch_size: int = option(64, "answers sampled at once")
    right_from: float = option(0.7, "score by the judge (ROUGE-L) from which an answer counts as right")
    known_from: float = option(0.5, "share of right answers from which the model counts as knowing a question")
    num_pairs: int = option(2, "preference pairs of one question at most")
    train: str = option(
        "none", "train at once on the data that were written, and measure again", WAYS, section="training"
    )
    train_config: str | None = option(None, "YAML file of that command's options; model, data and directory are given")
    seed: int = option(0, "of questions, samples and pairs")

    def __post_init__(self):
        check_positive(self, "max_samples", "max_eval_samples", "max_new_tokens", "per_device_eval_batch_size")
        check_positive(self, "temperature")
        check_each(self, ("right_from", "known_from"), lambda value: 0 < value <= 1, "must be above 0 and at most 1")
        if self.num_generations < 2:
            raise UserError(f"--num_generations {self.num_generations} shows no agreement; use 2 or more")
        if self.num_pairs < 1 or self.seed < 0:
            raise UserError(f"--num_pairs {self.num_pairs} --seed {self.seed}: pairs must be above 0, a seed not below")
        if self.train_config and self.train == "none":
            raise UserError("--train_config without --train has nothing to configure; add --train sft or --train dpo")
        if self.before:
            given = [
                f.name for f in fields(self) if f.name not in NEEDED_TO_MEASURE and getattr(self, f.name) != f.default
            ]
            if given:
                raise UserError(f"--{given[0]} with --before: the questions are those of the run before; leave it out")
