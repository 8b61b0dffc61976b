"""The language-modelling loss without the whole logits.

    loss = - sum over targets of log softmax(head(h_t))[y_t] / num_items

The logits of all tokens are by far the largest tensor of a training step: (tokens, V) numbers, several times over. Here
the head, the softmax and their gradients are computed for a few hundred tokens at a time, within the forward pass, and
only the gradients of hidden states and head are kept, as in Liger Kernel (Hsu et al. 2024, arXiv:2410.10989).
Nothing is computed twice.

The z-loss (Chowdhery et al. 2022, arXiv:2204.02311, section 5) holds the normaliser of the softmax near 1:

    + z_loss * (log sum exp of the logits)^2, on average over targets

It acts like weight decay: its gradient is there, its value is not, and the loss stays nats per target token.
"""

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from ..data.tokens import IGNORED
from .liger import liger_loss

FEWEST = 128  # tokens; with fewer, summing up the head's gradient takes more than an eighth of the time


def held(device: torch.device) -> int:
    """How many numbers are computed at once, of the head's gradient and of logits (of these more for a vocabulary above
    16k on a CPU, see `FEWEST`): as many as a CPU's caches hold; elsewhere enough for large products, not measured."""
    return 2**21 if device.type == "cpu" else 2**25


def chunk_size(vocab_size: int, device: torch.device) -> int:
    """How many tokens' logits are held at once: on a CPU 256 of a vocabulary of 8k, 128 from 16k on."""
    return max(FEWEST, held(device) // vocab_size)


class NextTokenLoss(nn.Module):
    """The part that is wrapped for several processes: a batch in, nats over `num_items` target tokens out.

    `model` is any causal language model of transformers; those with `scale_logits` (ours) say what stands between head
    and softmax, and every other one computes its loss itself. Wrap this module and not the model: under FSDP2 the
    head's weight is whole only while the forward pass of what is wrapped runs.
    """

    def __init__(self, model: nn.Module, chunk: int | None = None, z_loss: float = 0.0, use_liger: bool = False):
        super().__init__()
        self.model, self.chunk, self.z_loss, self.use_liger = model, chunk, z_loss, use_liger

    def forward(self, batch: dict[str, torch.Tensor], num_items: torch.Tensor) -> torch.Tensor:
        if not hasattr(self.model, "scale_logits"):
            return self._own_loss(batch, num_items)
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        hidden = self.model.base_model(**inputs, use_cache=False).last_hidden_state[:, :-1]  # (B, T - 1, D)
        labels = batch["labels"][:, 1:].flatten()
        counted = labels != IGNORED
        hidden, labels, head = hidden.flatten(0, 1)[counted], labels[counted], self.model.get_output_embeddings()
        weight, bias = _whole(head.weight), _whole(head.bias)
        if self.use_liger:
            total = liger_loss(hidden, labels, weight, bias, self.model.config, self.z_loss)
        else:
            total = chunked_loss(hidden, labels, weight, bias, self.model.scale_logits, self.chunk, self.z_loss)
        return total / num_items

    def logits(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(B, T) ids to (B, T, V) logits, for evaluation: sharded weights are gathered for what is called here."""
        return self.model(input_ids=input_ids, use_cache=False).logits

    def _own_loss(self, batch, num_items):
        output = self.model(**batch, use_cache=False, num_items_in_batch=num_items)
        if self.z_loss == 0:
            return output.loss
        targets = batch["labels"][:, 1:] != IGNORED
        z = self.z_loss * output.logits[:, :-1][targets].float().logsumexp(-1).square().sum() / num_items
        return output.loss + (z - z.detach())


def _whole(weight: torch.Tensor | None) -> torch.Tensor | None:
    """Tensor parallelism keeps the head in slices of the vocabulary, and only its own forward puts them together."""
    if not isinstance(weight, DTensor):
        return weight
    assert weight.device_mesh.mesh_dim_names == ("tp",), "fully_shard the NextTokenLoss, not the model inside it"
    return weight.full_tensor()  # each process has the same tokens, and so its slice of the same gradient


@torch.compiler.disable  # gradients within a forward pass are nothing that it could trace
def chunked_loss(
    hidden, labels, weight, bias, scale_logits, chunk: int | None = None, z_loss: float = 0.0
) -> torch.Tensor:
    """Sum of the losses of (N, D) hidden states, in float32, with the gradient of the z-loss and without its value."""
    chunk = chunk or chunk_size(len(weight), hidden.device)
    return _ChunkedLoss.apply(hidden, labels, weight, bias, scale_logits, chunk, z_loss)


class _ChunkedLoss(torch.autograd.Function):
    """The gradients are ready when the loss is; only those that are needed are computed. One backward pass."""

    @staticmethod
    def forward(ctx, hidden, labels, weight, bias, scale_logits, chunk, z_loss):
        exact = torch.promote_types(hidden.dtype, torch.float32)
        of_hidden, of_weight, of_bias = ctx.gradients = [
            torch.zeros_like(x, dtype=dtype) if ctx.needs_input_grad[i] else None
            for i, x, dtype in ((0, hidden, hidden.dtype), (2, weight, exact), (3, bias, exact))
        ]
        rows = max(1, held(hidden.device) // hidden.shape[1])
        total = torch.zeros((), dtype=exact, device=hidden.device)
        # In the format of the products once, and not in each of them.
        hidden, weight, bias = (None if x is None else x.detach().to(_format(x)) for x in (hidden, weight, bias))
        for start in range(0, len(labels), chunk):
            part = slice(start, start + chunk)
            with torch.enable_grad():
                raw = F.linear(hidden[part], weight, bias).requires_grad_()  # (chunk, V)
                logits = scale_logits(raw)
            loss, grad = cross_entropy(logits.detach().to(exact), labels[part], z_loss)
            total += loss
            (grad,) = torch.autograd.grad(logits, raw, grad.to(logits.dtype))
            if of_hidden is not None:
                of_hidden[part] = grad @ weight
            if of_weight is not None:
                for sums, columns in zip(of_weight.split(rows), grad.split(rows, dim=1), strict=True):
                    sums += columns.T @ hidden[part]
            if of_bias is not None:
                of_bias += grad.sum(0, dtype=exact)
            del raw, logits, grad  # before the next ones are made
        return total

    @staticmethod
    def backward(ctx, grad_output):
        # Handed over, not kept: a parameter then takes the tensor for its gradient, and no copy of it.
        gradients, ctx.gradients = ctx.gradients, None
        assert gradients is not None, "the gradients of the chunked loss are there for one backward pass"
        hidden, weight, bias = (None if grad is None else grad.mul_(grad_output) for grad in gradients)
        return hidden, None, weight, bias, None, None, None


def _format(x: torch.Tensor) -> torch.dtype:
    """The number format that products are computed in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, z_loss: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed loss of logits (N, V), and the gradient of loss and z-loss for them: softmax - one-hot.

    In two thirds of the time of autograd's, which makes a tensor of zeros and another softmax.
    """
    gradient = logits.softmax(-1)
    largest, of_largest = logits.amax(-1), gradient.amax(-1)  # a probability of at least 1 / V
    normaliser = largest - of_largest.log()  # log sum exp
    labels = labels[:, None]
    loss = (normaliser - logits.gather(1, labels).squeeze(1)).sum()
    if z_loss:
        gradient *= (1 + 2 * z_loss * normaliser)[:, None]
    return loss, gradient.scatter_add_(1, labels, torch.full_like(labels, -1, dtype=gradient.dtype))
