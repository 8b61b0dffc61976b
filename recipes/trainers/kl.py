"""The divergence of the policy from its reference, per token, and the coefficient in front of it.

With d_t = log pi(y_t | ...) - log rho(y_t | ...) for tokens y_t drawn from the policy pi, rho being the reference
(Schulman 2020, http://joschu.net/blog/kl-approx.html):

    k1 = d_t                            unbiased for KL(pi || rho); may be negative
    k3 = exp(-d_t) - 1 + d_t            unbiased too, never negative, less variance where pi is near rho

As a part of the reward the two are not alike. The policy gradient of a reward f(d_t) is E[grad log pi f(d_t)]:

    f = k1:  grad KL(pi || rho)
    f = k3:  grad KL(pi || rho) - grad KL(rho || pi)

The second vanishes, to second order, where pi is near rho: k3 hardly holds the policy back. It measures well and
penalises badly; `kl_estimator="k3"` is there to repeat runs that were made with it.

The coefficient is fixed, or follows a target (Ziegler et al. 2019, arXiv:1909.08593, section 2.2), as in their code:

    beta <- beta (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon)       n completions in the batch
"""

import torch

ESTIMATORS = ("k1", "k3")
LARGEST_ERROR = 0.2


def kl_terms(logps: torch.Tensor, ref_logps: torch.Tensor, estimator: str) -> torch.Tensor:
    """The estimator for each token, in the shape of the log-probabilities, in nats."""
    difference = logps - ref_logps
    if estimator == "k1":
        return difference
    assert estimator == "k3", estimator
    return torch.expm1(-difference) + difference


class KLController:
    """`beta`, which follows `target` (nats a completion) unless that is None."""

    def __init__(self, beta: float, target: float | None = None, horizon: int = 10_000):
        self.beta, self.target, self.horizon = beta, target, horizon

    def update(self, kl: float, completions: int) -> None:
        """Take note of the mean KL of so many new completions."""
        if self.target is not None:
            error = max(-LARGEST_ERROR, min(LARGEST_ERROR, kl / self.target - 1))
            self.beta *= 1 + error * completions / self.horizon
