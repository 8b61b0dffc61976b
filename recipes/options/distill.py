"""Options of `rhapsode distill`."""

from dataclasses import dataclass

from .alignment import AnsweringOptions
from .base import UserError, check_each, check_positive, option


@dataclass
class DistillOptions(AnsweringOptions):
    """Distillation: a student learns the distribution that a teacher with the same tokenizer gives to each token of an
    answer, of the dataset's answers and of its own. The student is --model or, with new weights, --preset. Of a
    conversation the last answer is learned. --learning_rate none is 2e-5, and ten times as much with --use_peft; models
    of some millions of parameters want 1e-3."""

    EXAMPLES = (
        "rhapsode distill --config recipes/configs/distill.yaml",
        "rhapsode distill --teacher runs/sft --preset rhapsode-10m-tiny",
    )

    model: str | None = option(None, "directory or Hub id of the student; or give --preset")
    output_dir: str = option("runs/distill", "the run directory")
    teacher: str = option(
        "runs/sft", "directory or Hub id of a model that answers, usually a larger one", section="teacher and student"
    )
    preset: str | None = option(None, "design of a new student, see `rhapsode presets`; its tokenizer is the teacher's")
    config_overrides: list[str] = option([], "changes to that design, e.g. num_hidden_layers=4 hidden_size=128")
    beta: float = option(
        0.5, "divergence: 0 is forward KL, 1 reverse KL, between them generalised Jensen-Shannon", section="the loss"
    )
    lmbda: float = option(0.5, "share of steps on answers that the student samples, in place of the dataset's")
    temperature: float = option(1.0, "of sampling, and of both distributions in the loss")
    max_completion_length: int = option(
        64, "tokens of an answer that the student samples at most; a row has --max_length less these"
    )

    def __post_init__(self):
        super().__post_init__()
        if (self.model is None) == (self.preset is None):
            raise UserError(f"--model {self.model or 'none'} with --preset {self.preset or 'none'}: give one of them")
        if self.preset and self.use_peft:
            raise UserError(f"--use_peft with --preset {self.preset}: adapters need weights that know something")
        if self.config_overrides and not self.preset:
            raise UserError(f"--config_overrides {' '.join(self.config_overrides)} change a --preset; give one")
        check_each(self, ("beta", "lmbda"), lambda value: 0 <= value <= 1, "must be from 0 to 1")
        check_positive(self, "temperature")
        check_each(self, ("max_completion_length",), lambda value: value > 1, "is too short; use 2 or more")
