"""Supervised fine-tuning: a base model learns to answer (the first step of Ouyang et al. 2022, arXiv:2203.02155).

    L = - sum over the assistant's tokens, the EOS that ends its turn included, of log p(token | all before it)

by trl's SFTTrainer. Packed rows do not see each other (positions begin anew, and so does attention). Rows with
`messages` train everything that the assistant says, rows with `prompt` and `completion` the completion alone.
"""

import sys
from functools import partial

from trl import SFTConfig, SFTTrainer

from .alignment.datasets import sft_dataset
from .alignment.models import open_policy
from .alignment.outcome import align
from .cli import run_command
from .options.sft import SftOptions

LEARNING_RATE = 2e-5


def run(options: SftOptions) -> None:
    align("sft", options, partial(open_policy, teach_chat=True), sft_dataset, SFTTrainer, settings, LEARNING_RATE)


def settings(job) -> tuple[type, dict]:
    """trl's configuration class, and what it is told beside the options of all commands."""
    has_messages = "messages" in job.train.column_names
    return SFTConfig, {
        "packing": job.options.packing,
        "eval_packing": False,  # each row alone: the held-out loss is the same whatever the packing
        "assistant_only_loss": has_messages,
        "completion_only_loss": not has_messages,
    }


if __name__ == "__main__":
    sys.exit(run_command("sft", sys.argv[1:]))
