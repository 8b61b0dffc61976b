"""The losses of PPO, term by term, each (B, T) and aligned with the tokens; their caller takes the masked mean.

    rho_t    = exp(log pi(y_t) - log pi_old(y_t))
    policy   = max(-A_t rho_t, -A_t clip(rho_t, 1 - eps_low, 1 + eps_high))       Schulman et al. 2017, arXiv:1707.06347
    value    = 1/2 max((V_t - R_t)^2, (V_old + clip(V_t - V_old, -c, c) - R_t)^2)    the second one only if c is given
    entropy  = -sum_y pi(y) log pi(y)                                                subtracted with its coefficient
    ptx      = -log pi(x_t) of pretraining text                   PPO-ptx, Ouyang et al. 2022, arXiv:2203.02155, eq. 2

    loss = E_t[policy] + vf_coef E_t[value] - entropy_coef E_t[entropy] + ptx_coef E_x[ptx]

The clip of the value, of the implementations rather than of a paper, holds V back by c an update: it slows the value
model where returns are much larger than c.
"""

import torch


def policy_terms(
    logps: torch.Tensor, old_logps: torch.Tensor, advantages: torch.Tensor, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss of each token, and where the clip took its gradient: below (A < 0) and above (A > 0)."""
    ratio = torch.exp(logps - old_logps)
    loss = torch.max(-advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high))
    return loss, (ratio < 1 - low) & (advantages < 0), (ratio > 1 + high) & (advantages > 0)


def value_terms(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each token, and where the clip took its gradient."""
    loss = (values - returns).square()
    if clip is None:
        return loss / 2, torch.zeros_like(loss, dtype=torch.bool)
    clipped = (old_values + (values - old_values).clamp(-clip, clip) - returns).square()
    return torch.max(loss, clipped) / 2, clipped > loss


def update_kl(logps: torch.Tensor, old_logps: torch.Tensor) -> torch.Tensor:
    """How far the policy has moved since the rollout: k3 of KL(pi_old || pi), whose samples the tokens are."""
    log_ratio = logps - old_logps
    return torch.expm1(log_ratio) - log_ratio
