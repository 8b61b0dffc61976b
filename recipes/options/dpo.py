"""Options of `rhapsode dpo`."""

from dataclasses import dataclass

from .alignment import AnsweringOptions
from .base import UserError, check_each, check_positive, option

LOSSES = ("sigmoid", "hinge", "ipo", "robust", "sigmoid_norm", "apo_zero", "apo_down")


@dataclass
class DpoOptions(AnsweringOptions):
    """Direct preference optimization: prefer the better answer of each pair, without a reward model. The reference is
    --model itself, asked once before the first step, so that one copy of the weights is enough. --learning_rate none is
    1e-6, and ten times as much with --use_peft; models of some millions of parameters want 1e-4."""

    EXAMPLES = (
        "rhapsode dpo --config recipes/configs/dpo.yaml",
        "rhapsode dpo --model runs/sft --dataset pairs.jsonl --beta 0.2",
    )

    model: str = option("runs/sft", "directory or Hub id of a model that answers, usually of rhapsode sft")
    output_dir: str = option("runs/dpo", "the run directory")
    beta: float = option(0.1, "how strongly the model is held to the reference", section="the loss")
    loss_type: str = option("sigmoid", "shape of the loss over the difference of log ratios", LOSSES)
    label_smoothing: float = option(0.0, "share of pairs that are taken to be the wrong way round")

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "beta")
        check_each(self, ("label_smoothing",), lambda value: 0 <= value < 0.5, "must be from 0 up to, but not, 0.5")
        if (self.loss_type == "robust") != (self.label_smoothing > 0):
            raise UserError(
                f"--loss_type {self.loss_type} with --label_smoothing {self.label_smoothing}: the share of wrong pairs "
                f"is what the loss 'robust' reads, and only that"
            )
