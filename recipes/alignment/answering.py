"""Answers of a model to conversations, and how far it has gone from another one.

    KL(p || q) = E_{y ~ p} [ sum_t sum_v p(v | x, y_<t) log (p(v | x, y_<t) / q(v | x, y_<t)) ]

The inner sum is exact at every position; only the answers are drawn, one for each prompt. That varies far less than the
difference of the two log-probabilities of the drawn answer, and is never below zero.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from transformers import PreTrainedTokenizerBase, set_seed

from ...tokenization.encoding import encode_conversation
from ...tokenization.special_tokens import up_to_end
from ..options.base import UserError

Messages = list[dict]


def place(model):
    """The model in evaluation, on this process's accelerator unless it is told to use the CPU."""
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    return model.eval().to(PartialState(cpu=on_cpu).device)


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: list[Messages], tools: list[list | None] | None = None
) -> list[list[int]]:
    """Ids up to where the answer begins; `tools` has the schemas of each prompt."""
    offered = zip(prompts, tools or [None] * len(prompts), strict=True)
    return [encode_conversation(tokenizer, p, t, add_generation_prompt=True)["input_ids"] for p, t in offered]


@torch.no_grad()
def answer(model, tokenizer, prompts: list[list[int]], max_new_tokens: int, batch_size: int, **sampling):
    """The ids of an answer to each prompt, with the end of the turn where the model came to it; greedy by default."""
    answers = []
    for batch in batches(prompts, batch_size):
        ids, mask = padded(batch, tokenizer.pad_token_id, model.device, left=True)
        settings = {"do_sample": False, **sampling}
        with drawing():
            out = model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                **settings,
            )
        answers += [up_to_end(row, [tokenizer.eos_token_id]) for row in out[:, ids.shape[1] :].tolist()]
    return answers


@contextmanager
def drawing() -> Iterator[None]:
    """To draw tokens in: torch's word for a model that has lost its numbers is an error of its own."""
    try:
        yield
    except RuntimeError as error:
        if "probability tensor" not in str(error):
            raise
        raise UserError(
            "the model's probabilities are not finite numbers, so that nothing can be drawn: its weights are damaged, "
            "or were trained at too high a rate"
        ) from error


def texts(tokenizer, answers: list[list[int]]) -> list[str]:
    return [text.strip() for text in tokenizer.batch_decode(answers, skip_special_tokens=True)]


@torch.no_grad()
def divergence(model, reference, tokenizer, prompts: list[list[int]], max_new_tokens: int, batch_size: int, seed: int):
    """(KL of the model from the reference in nats an answer, its standard error)."""
    set_seed(seed)
    drawn = answer(model, tokenizer, prompts, max_new_tokens, batch_size, do_sample=True, top_k=0)
    sums = []
    for batch in batches(list(zip(prompts, drawn, strict=True)), batch_size):
        ids, mask = padded([p + a for p, a in batch], tokenizer.pad_token_id, model.device, left=False)
        p, q = (m(ids, attention_mask=mask).logits.float().log_softmax(-1) for m in (model, reference))  # (B, T, V)
        kl = (p.exp() * (p - q)).sum(-1)  # (B, T)
        sums += [row[len(x) - 1 : len(x) + len(y) - 1].sum() for row, (x, y) in zip(kl, batch, strict=True)]
    values = torch.stack(sums)
    return values.mean().item(), (values.std() / len(values) ** 0.5).item() if len(values) > 1 else 0.0


def batches(items: list, size: int) -> Iterator[list]:
    return (items[i : i + size] for i in range(0, len(items), size))


def padded(rows: list[list[int]], pad: int, device, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask), both (B, T)."""
    width = max(map(len, rows))
    fill = [[pad] * (width - len(row)) for row in rows]
    ids = [f + row if left else row + f for f, row in zip(fill, rows, strict=True)]
    mask = [
        [0] * len(f) + [1] * len(row) if left else [1] * len(row) + [0] * len(f)
        for f, row in zip(fill, rows, strict=True)
    ]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
