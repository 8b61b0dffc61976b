"""Options of `rhapsode kto`."""

from dataclasses import dataclass

from .alignment import AnsweringOptions
from .base import UserError, check_positive, option

LOSSES = ("kto", "apo_zero_unpaired")


@dataclass
class KtoOptions(AnsweringOptions):
    """Kahneman-Tversky optimization: single answers that are marked good or bad, no pairs. The reference is --model
    itself, asked once before the first step, so that one copy of the weights is enough. --learning_rate none is 1e-6,
    and ten times as much with --use_peft; models of some millions of parameters want 1e-4."""

    EXAMPLES = ("rhapsode kto --config recipes/configs/kto.yaml",)

    model: str = option("runs/sft", "directory or Hub id of a model that answers, usually of rhapsode sft")
    output_dir: str = option("runs/kto", "the run directory")
    beta: float = option(0.1, "how strongly the model is held to the reference", section="the loss")
    loss_type: str = option("kto", "shape of the loss; apo_zero_unpaired does without the KL estimate", LOSSES)
    desirable_weight: float = option(1.0, "weight of good answers; raise it where they are fewer")
    undesirable_weight: float = option(1.0, "weight of bad answers; raise it where they are fewer")

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "beta", "desirable_weight", "undesirable_weight")
        if self.loss_type == "kto" and self.per_device_train_batch_size < 2:
            raise UserError(
                f"--per_device_train_batch_size {self.per_device_train_batch_size}: the KL estimate of kto pairs each "
                f"prompt with another row's answer; use 2 or more, or --loss_type apo_zero_unpaired"
            )
