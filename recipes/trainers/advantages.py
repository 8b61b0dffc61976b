"""From scores of whole completions to an advantage and a return for each token.

    r_t = -beta KL_t  +  [t is the last token] score                  Ziegler et al. 2019, arXiv:1909.08593
    delta_t = r_t + gamma V_{t+1} - V_t                               V = 0 after the last token
    A_t = delta_t + gamma lambda A_{t+1}                              GAE, Schulman et al. 2016, arXiv:1506.02438
    R_t = A_t + V_t                                                   what the value model learns
    A_t <- (A_t - mean A) / sqrt(var A + eps)                         over all tokens of all processes

(B, T) tensors are aligned with the tokens: index t belongs to the action "token t", and V_t is the value of all that
stands before it. `mask` is 1 for the tokens of the completion, one unbroken stretch in each row, wherever the padding
is. A completion that was cut off at the length limit ends like any other: with its score, less a penalty if one is set.
"""

from collections.abc import Callable

import torch

EPSILON = 1e-8  # under the root, for a rollout whose advantages are all the same


def token_rewards(scores: torch.Tensor, kl: torch.Tensor, mask: torch.Tensor, beta: float) -> torch.Tensor:
    """(B,) scores and (B, T) divergences to (B, T) rewards."""
    follows = torch.nn.functional.pad(mask[:, 1:], (0, 1))
    is_last = mask * (1 - follows)  # one in each row that has a completion
    return is_last * scores[:, None] - beta * kl * mask


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and returns, both (B, T) and zero outside the completion."""
    values, rewards = values * mask, rewards * mask
    advantages, following = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(following)
    for t in reversed(range(rewards.size(1))):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * lam * following) * mask[:, t]
        next_value = values[:, t]
        advantages[:, t] = following
    return advantages, advantages + values


def whiten(x: torch.Tensor, mask: torch.Tensor, total: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Mean 0 and variance 1 over the mask; `total` adds a tensor up over processes.

    Two passes, mean first: sums of squares would lose the variance where the mean is large.
    """
    count, summed = total(torch.stack([mask.sum(), (x * mask).sum()]))
    count = count.clamp(min=1)
    centred = (x - summed / count) * mask
    variance = total(centred.square().sum()) / count
    return centred * torch.rsqrt(variance + EPSILON)
