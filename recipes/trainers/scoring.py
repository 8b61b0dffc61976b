"""One forward pass for log-probabilities, entropies and values, without the logits of the whole batch.

    log pi(y_t) = z[y_t] / tau - log sum exp(z / tau)      z = f(W h_{t-1} + b), f: scale and soft cap, tau: temperature
    H_t = log sum exp(z / tau) - sum softmax(z / tau) z / tau

The logits of all tokens, (B T, V) numbers and several times over, are by far the largest tensor of a step. Here head
and softmax take a few hundred tokens at a time, only those of completions, and the backward pass computes them again.
The head is called as the module it is: what adapters, FSDP or ZeRO do to it stays in force.

The value model is a sub-module of the policy, and both run within the policy's `forward`: DDP, FSDP and DeepSpeed wrap
one model and one optimizer. Legend: B rows, T positions, D model, V vocabulary, N tokens that are scored.
"""

import functools
import types
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

CHUNK = 512  # tokens whose logits are held at once
MULTIPLIERS = ("logit_scale", "output_multiplier", "lm_head_multiplier")  # the names that configurations have for it
DIVISOR = "logits_scaling"
HEAD_TOLERANCE = 1e-2  # of the largest logit: bfloat16 rounds each operation to 3 digits


@dataclass
class TokenScores(ModelOutput):
    """(B, T) each, aligned with the tokens, zero where nothing was asked for; values of the first rows only.

    Not `values`: this is a dictionary, and DDP calls what that is called there.
    """

    log_probs: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    state_values: torch.Tensor | None = None


def add_token_scores(model: nn.Module, temperature: float, value_model: nn.Module | None = None) -> None:
    """Give a causal language model a second way through its `forward`: `model(..., scored=mask)`.

    `mask` (B, T) says which tokens to score; without it the forward pass is the original one, as `generate` needs it.
    `value_rows` is how many rows, the first ones, get values: all by default, 0 for none.

    Raises:
        ValueError: the model's logits are not its head on its last hidden states, as far as its configuration tells.
    """
    original, finish = model.forward, logit_finish(model)
    check_head(model, finish)
    if value_model is not None:
        _attach(model, value_model)

    @functools.wraps(type(model).forward)  # `generate` checks its arguments against this signature
    def forward(self, *args, scored=None, value_rows=None, **kwargs):
        if scored is None:
            return original(*args, **kwargs)
        ids, attention_mask = kwargs["input_ids"], kwargs["attention_mask"]  # PEFT adds arguments that are None
        hidden = self.base_model(input_ids=ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        rows = len(scored) if value_rows is None else value_rows
        scored = scored[:, 1:].bool()
        log_probs, entropy = token_scores(
            hidden[:, :-1][scored], ids[:, 1:][scored], self.get_output_embeddings(), finish, temperature
        )
        values = self.value_model(hidden[:rows], ids[:rows], attention_mask[:rows]) if rows else None
        return TokenScores(_spread(log_probs, scored), _spread(entropy, scored), values)

    model.forward = types.MethodType(forward, model)


def _attach(model: nn.Module, value_model: nn.Module) -> None:
    """Names that saving the policy leaves out: its directory is to hold what its class knows."""
    model.value_model = value_model
    own = [f"value_model.{name}" for name in value_model.state_dict()]
    model._keys_to_ignore_on_save = [*(model._keys_to_ignore_on_save or ()), *own]


def _spread(found: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
    """(N,) of the scored tokens to (B, T), the first column being a token that nothing stands before."""
    whole = found.new_zeros(scored.shape).masked_scatter(scored, found)
    return nn.functional.pad(whole, (1, 0))


def token_scores(hidden, targets, head, finish, temperature: float, chunk: int = CHUNK):
    """(N, D) hidden states and the (N,) tokens that follow them to (N,) log-probabilities and entropies, in float32."""
    found = [
        checkpoint(_chunk_scores, h, y, head, finish, temperature, use_reentrant=False)
        if torch.is_grad_enabled()
        else _chunk_scores(h, y, head, finish, temperature)
        for h, y in zip(hidden.split(chunk), targets.split(chunk), strict=True)
    ]
    return torch.cat([logps for logps, _ in found]), torch.cat([entropy for _, entropy in found])


def _chunk_scores(hidden, targets, head, finish, temperature):
    logits = finish(head(hidden))
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature  # (chunk, V)
    normaliser = logits.logsumexp(-1)
    entropy = normaliser - (logits.softmax(-1) * logits).sum(-1)
    return logits.gather(-1, targets[:, None]).squeeze(-1) - normaliser, entropy


def logit_finish(model: nn.Module):
    """What stands between head and softmax: our models say it, those of transformers have it in the configuration."""
    if hasattr(model, "scale_logits"):
        return model.scale_logits
    config = model.config.get_text_config()
    scale = next((s for name in MULTIPLIERS if (s := getattr(config, name, None)) is not None), None)
    if scale is None and (divisor := getattr(config, DIVISOR, None)) is not None:
        scale = divisor if config.model_type == "hyperclovax" else 1 / divisor  # the one that multiplies by it
    cap = getattr(config, "final_logit_softcapping", None)

    def finish(logits: torch.Tensor) -> torch.Tensor:
        logits = logits if scale is None else logits * scale
        return logits if cap is None else cap * torch.tanh(logits / cap)

    return finish


@torch.no_grad()
def check_head(model: nn.Module, finish) -> None:
    """Compare with the model's own logits on a few tokens, unless ZeRO-3 has the weights elsewhere."""
    if any(hasattr(p, "ds_id") for p in model.parameters()):
        return
    ids = torch.arange(2, 10, device=model.device)[None] % model.config.get_text_config().vocab_size
    was_training = model.training
    model.eval()
    expected = model(input_ids=ids, use_cache=False).logits
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    found = finish(model.get_output_embeddings()(hidden)).to(expected.dtype)
    model.train(was_training)
    if (found - expected).abs().max() > HEAD_TOLERANCE * expected.abs().max().clamp(min=1e-6):
        raise ValueError(
            f"the logits of {type(model).__name__} are not its output embeddings on its last hidden states, scaled as "
            f"{', '.join((*MULTIPLIERS, DIVISOR))} and final_logit_softcapping of its configuration say; give the "
            "model a method `scale_logits(logits)` that does the rest"
        )
