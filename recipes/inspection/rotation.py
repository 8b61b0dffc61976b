"""Rotary positions: how far apart two positions are turned, and how the dot product falls with the distance.

    <R_m q, R_n k> = sum over pairs c of |q_c| |k_c| cos((m - n) theta_c + angle between q_c and k_c)

Su et al. 2021, arXiv:2104.09864. For equal vectors of equal pairs it is the mean of cos(d theta_c). By summation by
parts it is bounded, whatever the vectors, by a multiple of the mean of |S_c|, S_c = sum_{i < c} exp(i d theta_i)
(section 3.4.3). Only distances count, so that one table of angles per pair says everything.
"""

import torch

POINTS = 240  # of the curves


def rotation(model) -> dict | None:
    """The angle of each pair at distance 1, and both curves over the distances of the model's context."""
    found = [module for module in model.modules() if getattr(module, "inv_freq", None) is not None]
    if not found:
        return None
    theta = found[0].inv_freq.detach().double().cpu()  # (R/2,)
    longest = getattr(model.config, "max_position_embeddings", None) or 2048
    distances = torch.logspace(0, torch.tensor(float(longest)).log10().item(), POINTS).round().long().unique()
    return {
        "theta": theta.tolist(),
        "longest": longest,
        "distances": distances.tolist(),
        "equal": equal_vectors(theta, distances).tolist(),
        "bound": bound(theta, distances).tolist(),
    }


def equal_vectors(theta: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
    """The dot product of a vector whose pairs have equal norms with itself at each distance; 1 at distance 0."""
    return torch.cos(distances[:, None].double() * theta).mean(-1)


def bound(theta: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
    """The mean of |S_c| over c, as a share of its value at distance 0."""
    turned = torch.polar(torch.ones_like(theta), theta) ** distances[:, None]  # exp(i d theta)
    at_zero = torch.arange(1, len(theta) + 1, dtype=torch.float64).mean()
    return turned.cumsum(-1).abs().mean(-1) / at_zero
