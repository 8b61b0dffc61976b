"""The language-modelling loss without the whole logits.

    loss = - sum over targets of log softmax(head(h_t))[y_t] / num_items

The logits of all tokens are by far the largest tensor of a training step: (tokens, V) numbers, several times over. Here
the head, the softmax and their gradients are computed for a few hundred tokens at a time, within the forward pass, and
only the gradients of hidden states and head are kept, as in Liger Kernel (Hsu et al. 2024, arXiv:2410.10989).
Nothing is computed twice.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ..data.tokens import IGNORED

CHUNK = 1024  # tokens whose logits are held at once


class NextTokenLoss(nn.Module):
    """The part that is wrapped for several processes: a batch in, nats over `num_items` target tokens out.

    `model` is any causal language model of transformers; those with `scale_logits` (ours) say what stands between head
    and softmax, and every other one computes its loss itself.
    """

    def __init__(self, model: nn.Module, chunk: int = CHUNK):
        super().__init__()
        self.model, self.chunk = model, chunk

    def forward(self, batch: dict[str, torch.Tensor], num_items: torch.Tensor) -> torch.Tensor:
        if not hasattr(self.model, "scale_logits"):
            return self.model(**batch, use_cache=False, num_items_in_batch=num_items).loss
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        hidden = self.model.base_model(**inputs, use_cache=False).last_hidden_state[:, :-1]  # (B, T - 1, D)
        labels = batch["labels"][:, 1:].flatten()
        counted = labels != IGNORED
        head = self.model.get_output_embeddings()
        total = _ChunkedLoss.apply(
            hidden.flatten(0, 1)[counted],
            labels[counted],
            head.weight,
            head.bias,
            self.model.scale_logits,
            self.chunk,
        )
        return total / num_items


class _ChunkedLoss(torch.autograd.Function):
    """Sum of the losses of (N, D) hidden states; the gradients are ready when the loss is."""

    @staticmethod
    def forward(ctx, hidden, labels, weight, bias, scale_logits, chunk):
        parameters = [p for p in (weight, bias) if p is not None]
        sums = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
        grad_hidden, total = torch.empty_like(hidden), torch.zeros((), dtype=torch.float32, device=hidden.device)
        for h, y, out in zip(hidden.split(chunk), labels.split(chunk), grad_hidden.split(chunk), strict=True):
            with torch.enable_grad():
                h = h.detach().requires_grad_()
                logits = scale_logits(F.linear(h, weight, bias))  # (chunk, V)
                loss = F.cross_entropy(logits.float(), y, reduction="sum")
                grad, *grads = torch.autograd.grad(loss, [h, *parameters])
            out.copy_(grad)
            total += loss.detach()
            for summed, g in zip(sums, grads, strict=True):
                summed += g
        ctx.save_for_backward(grad_hidden, *sums)
        ctx.dtypes = [p.dtype for p in parameters]
        return total

    @staticmethod
    def backward(ctx, grad_output):
        grad_hidden, *sums = ctx.saved_tensors
        grads = [(s * grad_output).to(dtype) for s, dtype in zip(sums, ctx.dtypes, strict=True)]
        return grad_hidden * grad_output, None, grads[0], grads[1] if len(grads) > 1 else None, None, None
