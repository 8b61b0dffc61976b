"""Decoding at the speed of memory: one compiled step for every new token, given to `generate` as its loop.

A token costs a look at every weight and a little arithmetic, so the limit is (bytes of weights) / (memory bandwidth).
What stands between it and plain `generate` is taken away, each by itself:

- a cache of fixed size, so that all steps have one shape and are compiled once, the whole model into one graph;
- on a CPU products of matrix and vector are written as sums, which the compiler makes one pass over the weights of: the
  library's product of matrices takes four times as long for a single row;
- the loop asks for nothing that has not changed: no new masks, no guards on what was compiled after its first step.

Prompts, draws and ends are those of `generate`: the same logits processors, stopping criteria and random numbers.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.cache_utils import Cache, StaticLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...modeling import RhapsodeForCausalLM
from ...modeling.caches import CACHE
from ..options.base import UserError
from ..training.compilation import check_compiler

NAME = "single_query"
ROUND_UP = 256  # positions: caches of these sizes, so that texts of like length share what was compiled
FOLLOW_LENGTH = ("dynamic", "longrope")  # in transformers' `dynamic_rope_update`


def compiled_decoding(model, streamer=None) -> dict:
    """What to give to `model.generate` for it: on a GPU transformers' own way, with CUDA graphs.

    Args:
        streamer: the one that `generate` is given too, which keeps it from a loop that is not its own.

    Raises:
        UserError: no compiler, or rotary angles that change with the length of the text.
    """
    check_compiler(model.device)
    kind = (getattr(model.config, "rope_parameters", None) or {}).get("rope_type")
    if kind in FOLLOW_LENGTH:
        raise UserError(f"--torch_compile: with rope_type={kind} every length is another computation; leave it out")
    if model.device.type != "cpu":
        return {"cache_implementation": "static"}
    return {"custom_generate": functools.partial(decode, streamer=streamer)}


@torch.inference_mode()
def decode(model, input_ids, logits_processor, stopping_criteria, generation_config, streamer=None, **kwargs):
    """The loop of `generate`, for input_ids (B, T), to ids (B, T + new); greedy, or drawn."""
    B, T = input_ids.shape
    positions = -(-generation_config.max_length // ROUND_UP) * ROUND_UP
    # Sliding layers too keep all positions, and their masks hide most: a smaller cache counts in Python, step by step.
    cache = Cache(layers=[StaticLayer(positions) for _ in range(model.config.num_hidden_layers)])
    mask, position = _padding(kwargs.get("attention_mask"), input_ids, positions)
    prompt_mask = None if mask is None else mask[:, :T]
    inputs = {CACHE: cache, "attention_mask": prompt_mask, "position_ids": _prompt_positions(position, T)}
    logits = model(input_ids, use_cache=True, logits_to_keep=1, **inputs).logits[:, -1]
    ids, unfinished = input_ids, torch.ones(B, dtype=torch.bool, device=input_ids.device)
    with single_rows(model):
        while True:
            scores = logits_processor(ids, logits.to(torch.float32))
            token = _draw(scores, generation_config)
            if generation_config.pad_token_id is not None:
                token = token.where(unfinished, generation_config.pad_token_id)
            ids = torch.cat([ids, token[:, None]], dim=1)
            if streamer is not None:
                streamer.put(token)
            unfinished &= ~stopping_criteria(ids, None)
            if not unfinished.any():
                break
            is_first = ids.shape[1] == T + 1
            with torch.compiler.set_stance("default", skip_guard_eval_unsafe=not is_first):
                logits = _compiled_step()(model, token[:, None], position, mask, cache)
            position = position + 1
    if streamer is not None:
        streamer.end()
    return ids


def _step(model, token, position, mask, cache):
    """Logits (B, V) after the tokens (B, 1) at the positions (B, 1)."""
    return model(token, mask, position, cache, use_cache=True).logits[:, -1]


@functools.cache
def _compiled_step():
    return torch.compile(_step, dynamic=False)


def _padding(mask, input_ids, positions: int):
    """The mask for all positions of the cache (B, S), None without padding, and the first new position (B, 1)."""
    B, T = input_ids.shape
    if mask is None or mask.all():
        return None, input_ids.new_full((B, 1), T)
    return nn.functional.pad(mask, (0, positions - T), value=1), mask.sum(-1, keepdim=True)


def _prompt_positions(position: torch.Tensor, T: int) -> torch.Tensor:
    """(B, T): a text ends right before its first new position; padding on its left counts as its first token."""
    return (position - T + torch.arange(T, device=position.device)).clamp(min=0)


def _draw(scores: torch.Tensor, generation_config) -> torch.Tensor:
    """(B,) from (B, V), with the random numbers that `generate` would take."""
    if not generation_config.do_sample:
        return scores.argmax(-1)
    return torch.multinomial(scores.softmax(-1), num_samples=1).squeeze(1)


@contextmanager
def single_rows(model) -> Iterator[None]:
    """Within it the model's products of a single row, and its attention of a single query, are sums."""
    linears, kernel = [m for m in model.modules() if type(m) is nn.Linear], model.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS.register(NAME, single_query_attention_forward)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
    try:
        for module in linears:
            module.__class__ = SingleRowLinear
        if isinstance(model, RhapsodeForCausalLM):  # other families may want of attention what this has not
            model.config._attn_implementation = NAME
        yield
    finally:
        model.config._attn_implementation = kernel
        for module in linears:
            module.__class__ = nn.Linear


class SingleRowLinear(nn.Linear):
    """The same product; of a single row in float32 sums, which a compiler makes one pass over the weights of."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() > self.in_features:
            return super().forward(x)
        y = (x.reshape(1, -1) * self.weight).sum(-1, dtype=torch.float32)
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).view(*x.shape[:-1], -1)


def single_query_attention_forward(module, query, key, value, attention_mask, scaling: float, **kwargs):
    """For query (B, H, 1, C) and key and value (B, K, S, C): (B, 1, H, C); longer queries go to sdpa."""
    B, H, T, C = query.shape
    if T > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    K = key.shape[1]
    query = query.view(B, K, H // K, 1, C)
    scores = (query * key[:, :, None]).sum(-1, dtype=torch.float32) * scaling  # (B, K, G, S)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask.view(-1, 1, 1, scores.shape[-1]), torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1)
    out = (weights[..., None] * value[:, :, None]).sum(-2)  # (B, K, G, C)
    return out.to(value.dtype).view(B, 1, H, C), None
