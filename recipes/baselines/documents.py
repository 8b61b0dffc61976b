"""Where documents begin within a row of tokens: what stands before a beginning says nothing about what follows it."""

import torch


def depths(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """How many tokens of its own document, within the row, stand before each token, (B, T).

    A document begins with the row, where positions do not go on by one (packed documents), and after padding.
    `attention_mask` (B, T or longer) covers the row with its last T entries, as `generate` passes it beside a cache.
    """
    B, T = input_ids.shape
    begins = torch.zeros(B, T, dtype=torch.bool, device=input_ids.device)
    if position_ids is not None:
        begins[:, 1:] |= position_ids[:, 1:] != position_ids[:, :-1] + 1
    if attention_mask is not None:
        real = attention_mask[:, -T:].bool()
        begins[:, 1:] |= real[:, 1:] != real[:, :-1]
        begins &= real
    begins[:, 0] = True
    positions = torch.arange(T, device=input_ids.device)
    return positions - torch.where(begins, positions, 0).cummax(dim=1).values
