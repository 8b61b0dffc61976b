"""What a model makes of a text: surprise, candidates, logit lens, attention.

surprise of token t   -log2 p(x_t | x_<t)                                   bits
logit lens            softmax(head(norm(h_l))) at every layer l             nostalgebraist 2020; Belrose et al. 2023,
                      the layer's own best guess                            arXiv:2303.08112
attention             softmax(scale * q k^T + mask), of every layer and head

Everything is read through the interfaces that all models of transformers have, so that it works for any of them; what a
model does not have, attention in a recurrent network for one, is left out.

Legend: T positions, V vocabulary, L layers, H heads, D model.
"""

import base64
import math
from unittest.mock import patch

import torch

from ..options.base import UserError

LAST_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")
KEPT = 48  # logits of each position that are kept one by one, for the sliders
BINS = 48  # in which the rest of them is counted


@torch.no_grad()
def read_text(model, tokenizer, ids: list[int], top: int) -> dict:
    """Everything that the page shows of this text; `ids` (T,) as the tokenizer made them."""
    out = model(torch.tensor([ids], device=model.device), output_attentions=True, output_hidden_states=True)
    logits = out.logits[0].float().cpu()  # (T, V)
    if not logits.isfinite().all():
        raise UserError("the model's logits are not finite on this text; its weights are damaged, or overflow")
    spell = Spelling(tokenizer)
    return {
        "tokens": _tokens(logits, ids, spell, top),
        "sampling": [_distribution(row, spell) for row in logits],
        "lens": _lens(model, getattr(out, "hidden_states", None), ids, spell),
        "attention": _attention(getattr(out, "attentions", None)),
    }


class Spelling:
    """A token as a reader sees it: its text, or where it is a part of a character, the tokenizer's own name for it."""

    def __init__(self, tokenizer):
        self.tokenizer, self.known = tokenizer, {}

    def __call__(self, token: int) -> str:
        if token not in self.known:
            text = self.tokenizer.decode([token], clean_up_tokenization_spaces=False)
            if not text or "\N{REPLACEMENT CHARACTER}" in text:
                text = str(self.tokenizer.convert_ids_to_tokens(token))  # None for a row beyond the vocabulary
            self.known[token] = text
        return self.known[token]


def _tokens(logits: torch.Tensor, ids: list[int], spell: Spelling, top: int) -> list[dict]:
    """For each token its surprise and rank among the predictions before it, and what is predicted after it."""
    log_p = logits.log_softmax(-1)
    rows = []
    for t, token in enumerate(ids):
        best = log_p[t].topk(min(top, log_p.shape[-1]))
        row = {"text": spell(token), "id": token}
        row["next"] = [[spell(i), p] for i, p in zip(best.indices.tolist(), best.values.exp().tolist(), strict=True)]
        row["entropy"] = float(-(log_p[t].exp() * log_p[t].clamp(min=-1e4)).sum()) / math.log(2)
        if t:
            row["bits"] = float(-log_p[t - 1, token]) / math.log(2)
            row["rank"] = int((log_p[t - 1] > log_p[t - 1, token]).sum()) + 1
        rows.append(row)
    return rows


def _distribution(logits: torch.Tensor, spell: Spelling) -> dict:
    """The highest logits one by one; of the rest, in bins, how many there are and their mean."""
    values, order = logits.sort(descending=True)
    kept = [[spell(i), v] for i, v in zip(order[:KEPT].tolist(), values[:KEPT].tolist(), strict=True)]
    rest = values[KEPT:]
    rest = rest[rest.isfinite()]
    if not len(rest):
        return {"kept": kept, "rest": []}
    place = ((rest[0] - rest) / (rest[0] - rest[-1]).clamp(min=1e-6) * BINS).long().clamp(max=BINS - 1)
    counts = torch.zeros(BINS).index_add_(0, place, torch.ones_like(rest))
    sums = torch.zeros(BINS, dtype=torch.float64).index_add_(0, place, rest.double())
    rows = [[total / n, int(n)] for total, n in zip(sums.tolist(), counts.tolist(), strict=True) if n]
    return {"kept": kept, "rest": rows}


def _lens(model, hidden_states, ids: list[int], spell: Spelling) -> dict | None:
    """After the embedding and after every layer: the likeliest next token, its probability, the true one's."""
    norm = _last_norm(model)
    if not hidden_states or norm is None:
        return None
    *inner, last = hidden_states  # the last one has been normalised already
    layers = []
    for hidden in [*map(norm, inner), last]:
        log_p = _head(model, hidden)[0].float().log_softmax(-1).cpu()  # (T, V)
        best, which = log_p.max(-1)
        true = [float(log_p[t, token].exp()) for t, token in enumerate(ids[1:])] + [None]
        cells = zip(map(spell, which.tolist()), best.exp().tolist(), true, strict=True)
        layers.append([list(cell) for cell in cells])
    return {"layers": layers}


def _head(model, hidden: torch.Tensor) -> torch.Tensor:
    """What the model's own head, with its scale and soft cap, makes of these states: (1, T, D) -> (1, T, V)."""

    decoder = _decoder(model)
    compute = decoder.forward

    def instead(*args, **kwargs):
        out = compute(*args, **kwargs)  # of one token, for whatever else a head asks of it
        out.last_hidden_state = hidden
        return out

    with patch.object(decoder, "forward", instead):
        return model(torch.zeros(1, 1, dtype=torch.long, device=hidden.device)).logits


def _decoder(model):
    """What the head reads from."""
    found = model.get_decoder() if hasattr(model, "get_decoder") else None
    return model.base_model if found is None or found is model else found


def _last_norm(model):
    norms = (getattr(_decoder(model), name, None) for name in LAST_NORMS)
    return next(filter(callable, norms), None)


def _attention(attentions) -> dict | None:
    """The lower triangles, (L, H, T (T + 1) / 2), in steps of 1/255, as base64."""
    if not attentions or getattr(attentions[0], "ndim", 0) != 4:
        return None
    weights = torch.stack([layer[0].float().cpu() for layer in attentions])  # (L, H, T, T)
    L, H, T, _ = weights.shape
    rows, columns = torch.tril_indices(T, T)
    steps = (weights[:, :, rows, columns] * 255).round().to(torch.uint8)
    return {"layers": L, "heads": H, "size": T, "data": base64.b64encode(steps.numpy().tobytes()).decode()}
