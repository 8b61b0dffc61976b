"""What a reward model is worth: on how many held-out pairs the better answer has the higher reward, and how sure it is.

    P(chosen before rejected) = sigmoid(r_chosen - r_rejected)          (Bradley and Terry 1952)

It is calibrated if of the pairs that it calls with probability p a share of p is right (Guo et al. 2017,
arXiv:1706.04599): pairs are put into bins by the probability of the answer that it prefers, and the expected
calibration error is the mean distance of accuracy and probability, weighted by the pairs in a bin.
"""

import torch

from ...tokenization.encoding import encode_conversation
from .answering import padded

BINS = 10


def rewards(model, tokenizer, conversations: list[list[dict]], batch_size: int) -> torch.Tensor:
    """(N,): the reward of each conversation, read at its last token."""
    ids = [encode_conversation(tokenizer, c)["input_ids"] for c in conversations]
    return scores(model, tokenizer, ids, batch_size).squeeze(-1)


@torch.no_grad()
def scores(model, tokenizer, rows: list[list[int]], batch_size: int) -> torch.Tensor:
    """(N, K): the logits of each row of ids."""
    found = []
    for i in range(0, len(rows), batch_size):
        ids, mask = padded(rows[i : i + batch_size], tokenizer.pad_token_id, model.device, left=False)
        found.append(model(ids, attention_mask=mask).logits.float().cpu())
    return torch.cat(found)


def rank(model, tokenizer, pairs, batch_size: int) -> dict:
    """Accuracy, margin and calibration over rows with `prompt`, `chosen`, `rejected`, and accuracy by their `kind`."""
    chosen, rejected = (
        rewards(model, tokenizer, [row["prompt"] + row[key] for row in pairs], batch_size)
        for key in ("chosen", "rejected")
    )
    margins = chosen - rejected
    right = _right(margins)
    kinds = pairs["kind"] if "kind" in pairs.column_names else []
    by_kind = {k: right[[i for i, other in enumerate(kinds) if other == k]].mean().item() for k in dict.fromkeys(kinds)}
    bins = calibration(margins)
    return {
        "accuracy": right.mean().item(),
        "margin": margins.mean().item(),
        "reward_chosen": chosen.mean().item(),
        "reward_rejected": rejected.mean().item(),
        "pairs": len(margins),
        "accuracy_by_kind": by_kind,
        "calibration": bins,
        "calibration_error": sum(b["pairs"] * abs(b["accuracy"] - b["probability"]) for b in bins) / len(margins),
    }


def _right(margins: torch.Tensor) -> torch.Tensor:
    """1 where the chosen one is ahead, half where both are equal."""
    return (margins.sign() + 1) / 2


def calibration(margins: torch.Tensor) -> list[dict]:
    """Bins of the probability of the preferred answer, from 0.5 to 1: their pairs, mean probability and accuracy."""
    sure = margins.abs().sigmoid()
    places = ((sure - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    right = _right(margins)
    return [
        {"probability": sure[inside].mean().item(), "accuracy": right[inside].mean().item(), "pairs": int(inside.sum())}
        for inside in (places == i for i in range(BINS))
        if inside.any()
    ]
