"""A reward model: one number for a conversation that ends with an answer (Ouyang et al. 2022, arXiv:2203.02155).

    L = - log sigmoid(r(x, y_w) - r(x, y_l)) + c (r(x, y_w) + r(x, y_l))^2

by trl's RewardTrainer. r is a linear head on the last token, the EOS that ends the turn, of a copy of the model that
answers. The second term (Eisenstein et al. 2023, arXiv:2312.09244) keeps rewards around zero, which the first leaves
open. What is measured on held-out pairs: how many are ranked right, by how much, and whether it knows how sure to be.
"""

import sys

from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from .alignment.answering import place
from .alignment.datasets import preference_dataset
from .alignment.models import open_scorer
from .alignment.outcome import finish
from .alignment.ranking import rank
from .alignment.training import arguments, prepare, train
from .cli import run_command
from .options.reward import RewardOptions

LEARNING_RATE = 1e-5


def run(options: RewardOptions) -> None:
    job = prepare("reward", options, open_scorer, preference_dataset)
    args = arguments(
        job, RewardConfig, LEARNING_RATE, center_rewards_coefficient=options.center_rewards_coefficient or None
    )
    results = train(job, RewardTrainer, args)
    if args.process_index == 0:
        model = AutoModelForSequenceClassification.from_pretrained(
            job.directory, trust_remote_code=options.trust_remote_code, dtype="float32", num_labels=1
        )
        found = rank(place(model), job.tokenizer, job.held_out, options.per_device_eval_batch_size)
        finish(job, results | found)
    args.distributed_state.wait_for_everyone()


if __name__ == "__main__":
    sys.exit(run_command("reward", sys.argv[1:]))
