"""Causal attention for training on a CPU: blocks of queries, whole products of matrices.

    block b of the queries sees keys 0 .. end(b):   out_b = softmax(scale q_b k[:end]^T + mask) v[:end]

The definition of `modeling/attention.py`, without most of what the mask would throw away, and with a backward pass that
keeps nothing but the weights. torch's own fused kernel multiplies tiles that are too small for a CPU's matrix
instructions: with 8 heads of 64 and 512 positions in bfloat16 it takes 2.3 times as long, forward and backward.
The weights are kept, about B H T^2 / 2 numbers a layer, so longer sequences go to the fused kernel, which keeps none.

Legend: B batch, T positions, S positions with the cached ones, H heads, K key and value heads, G = H / K, C head size.
"""

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...modeling import RhapsodeForCausalLM
from ..options.base import UserError, one_line

NAME = "blocked"
BLOCK = 128  # queries; 64 and 256 are slower, and so are products of other layouts
LONGEST = 1024  # positions; from here on the weights would take hundreds of MiB a layer


def set_attention(model, name: str | None) -> None:
    """Make `model` use this kernel of attention; None leaves it the one that it has.

    Raises:
        UserError: there is none of this name, or not for this model.
    """
    ALL_ATTENTION_FUNCTIONS.register(NAME, blocked_attention_forward)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)  # none where causality says it all, else True where seen
    if name is None or not (model._supports_sdpa or model._supports_flash_attn):  # it has no attention, or one kernel
        return
    try:
        model.set_attn_implementation(name)
    except (ValueError, ImportError) as error:
        raise UserError(f"--attn_implementation {name}: {one_line(error, 300)}") from error


def best_attention(model, device: torch.device, length: int) -> str:
    """The quickest kernel for training on the device with sequences of this length."""
    plain = isinstance(model, RhapsodeForCausalLM) and not model.config.attention_dropout
    return NAME if plain and device.type == "cpu" and length <= LONGEST else "sdpa"


def blocked_attention_forward(
    module, query, key, value, attention_mask, scaling: float, dropout: float = 0.0, **others
):
    """For query (B, H, T, C) and key and value (B, K, S, C): (B, T, H, C), and no weights.

    Raises:
        ValueError: what this kernel does not compute.
    """
    for what, wanted in {"dropout": dropout, "softcap": others.get("softcap"), "s_aux": others.get("s_aux")}.items():
        if wanted is not None and (isinstance(wanted, torch.Tensor) or wanted):
            raise ValueError(f"{what} of attention: the {NAME} kernel has none; use --attn_implementation eager")
    B, H, T, C = query.shape
    K = key.shape[1]
    # Under autocast rotated queries and keys are float32, and products are wanted in the type of the values.
    query, key = query.to(value.dtype).reshape(B, K, H // K, T, C), key.to(value.dtype)
    return _BlockedAttention.apply(query, key, value, attention_mask, scaling), None


class _BlockedAttention(torch.autograd.Function):
    """(B, K, G, T, C), twice (B, K, S, C) and a mask (B or 1, 1, T, S) to (B, T, H, C)."""

    @staticmethod
    def forward(ctx, q, k, v, mask, scaling):
        B, K, G, T, C = q.shape
        ctx.blocks = _blocks(T, k.shape[2], is_causal=mask is None and T > 1)
        out, weights = q.new_empty(B, T, K * G, C), []
        for start, end, seen in ctx.blocks:
            rows = (q[:, :, :, start:end] * scaling).reshape(B, K, -1, C)  # (B, K, G block, C)
            scores = (rows @ k[:, :, :seen].transpose(2, 3)).view(B, K, G, end - start, seen)
            if mask is not None:
                scores.masked_fill_(~mask[:, :, None, start:end, :seen], torch.finfo(scores.dtype).min)
            elif T > 1:
                later = torch.ones(end - start, end - start, dtype=torch.bool, device=q.device).triu(1)
                scores[..., start:].masked_fill_(later, -torch.inf)  # its first key is never later
            weights.append(scores.softmax(dim=-1).view(B, K, -1, seen))
            block = (weights[-1] @ v[:, :, :seen]).view(B, K, G, -1, C)
            out[:, start:end] = block.permute(0, 3, 1, 2, 4).reshape(B, -1, K * G, C)
        ctx.save_for_backward(q, k, v, *weights)
        ctx.scaling = scaling
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, *weights = ctx.saved_tensors
        B, K, G, T, C = q.shape
        grad = grad.view(B, T, K, G, C).permute(0, 2, 3, 1, 4)  # (B, K, G, T, C)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (start, end, seen), w in zip(ctx.blocks, weights, strict=True):
            rows, g = (x[:, :, :, start:end].reshape(B, K, -1, C) for x in (q, grad))  # (B, K, G block, C)
            dv[:, :, :seen] += w.transpose(2, 3) @ g
            dw = g @ v[:, :, :seen].transpose(2, 3)  # (B, K, G block, seen)
            ds = torch._softmax_backward_data(dw, w, -1, w.dtype) * ctx.scaling
            dq[:, :, :, start:end] = (ds @ k[:, :, :seen]).view(B, K, G, -1, C)
            dk[:, :, :seen] += ds.transpose(2, 3) @ rows
        return dq, dk, dv, None, None


def _blocks(T: int, S: int, is_causal: bool) -> list[tuple[int, int, int]]:
    """(first query, end of the queries, how many keys they may see) of each block.

    Without a mask the queries are the first T positions (a static cache has empty ones behind them), as in torch. After
    cached positions there is a mask, and it alone knows.
    """
    if not is_causal and T != S:
        return [(0, T, S)]
    return [(start, min(start + BLOCK, T), min(start + BLOCK, T)) for start in range(0, T, BLOCK)]
