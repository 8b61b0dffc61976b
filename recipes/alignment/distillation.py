"""The loss of a student against a teacher, on answers of the dataset and on the student's own.

trl's DistillationTrainer computes the divergence without holding whole logits and learns from sampled answers alone. A
student with new weights says nothing that is worth correcting, so here it is handed the dataset's answers in a share
1 - lmbda of the steps, as in trl's experimental GKDTrainer. That one is not used: it divides the loss of sampled
answers by the number of tokens that the dataset's would have had, and holds whole logits.
"""

import torch
from datasets import Dataset
from trl import DistillationTrainer

from ...tokenization.encoding import encode_conversation
from .answering import batches, encode_prompts, padded
from .drawing import draw
from .online import reproducible


class Distiller(reproducible(DistillationTrainer)):
    """`lmbda` is the share of steps on sampled answers. Held-out rows keep their own, so that figures compare."""

    def __init__(self, *args, lmbda: float, **kwargs):
        self.lmbda, self.given = lmbda, None
        super().__init__(*args, **kwargs)

    def _generate_and_score_completions(self, inputs):
        # By the step and not by a generator: all processes do the same, also after a resume.
        samples = self.model.training and draw("on policy", self.args.seed, self.state.global_step) < self.lmbda
        self.given = None if samples else [answer for _, answer in encoded(self.processing_class, inputs)]
        return super()._generate_and_score_completions(inputs)

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        return self.given or super()._generate_single_turn(prompt_ids, *args, **kwargs)


def encoded(tokenizer, rows) -> list[tuple[list[int], list[int]]]:
    """(ids of the prompt, ids of the answer) of rows with `prompt` and `completion`."""
    prompts = encode_prompts(tokenizer, [row["prompt"] for row in rows])
    whole = [encode_conversation(tokenizer, row["prompt"] + row["completion"])["input_ids"] for row in rows]
    return [(prompt, ids[len(prompt) :]) for prompt, ids in zip(prompts, whole, strict=True)]


@torch.no_grad()
def compare_losses(student, teacher, tokenizer, rows: Dataset, batch_size: int) -> dict[str, float]:
    """Nats per token of the rows' answers: the loss of both, and KL(teacher || student)."""
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    for batch in batches(encoded(tokenizer, rows), batch_size):
        ids, mask = padded([x + y for x, y in batch], tokenizer.pad_token_id, student.device, left=False)
        q, p = (m(ids, attention_mask=mask).logits[:, :-1].float().log_softmax(-1) for m in (student, teacher))
        said = torch.zeros_like(ids[:, 1:], dtype=torch.bool)  # (B, T - 1)
        for row, (x, y) in zip(said, batch, strict=True):
            row[len(x) - 1 : len(x) + len(y) - 1] = True
        losses = [-logs.gather(-1, ids[:, 1:, None])[..., 0][said] for logs in (q, p)]
        kl = (p.exp() * (p - q)).sum(-1)[said]
        sums += torch.stack([part.double().sum().cpu() for part in (*losses, kl)])
        count += int(said.sum())
    return dict(zip(("student", "teacher", "kl"), (sums / count).tolist(), strict=True))
