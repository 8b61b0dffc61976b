"""New special tokens, for a tokenizer and its model at once."""

import torch
from tokenizers import normalizers

from .chat_template import RESPONSE_TEMPLATE, load_template
from .guarding import removes_breakers
from .special_tokens import CHAT_TOKENS, PAD
from .splitting import remove_breakers
from .vocabulary import token_ids


def add_tokens(tokenizer, model, tokens: list[str]) -> int:
    """Give the tokenizer special tokens and the model (or None) rows for them; returns how many were new."""
    added = tokenizer.add_special_tokens({"extra_special_tokens": tokens}, replace_extra_special_tokens=False)
    if model is not None:
        grow_embeddings(model, len(tokenizer))
    return added


def add_chat_tokens(tokenizer, model=None) -> int:
    """Teach another family's base tokenizer our chat format; returns how many tokens were new.

    It gets the turn markers, a padding token of its own if it has none or shares it with EOS, our template, and the
    normalizer that goes with it. What plain text encodes to does not change.
    """
    added = 0
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        added += tokenizer.add_special_tokens({"pad_token": PAD})
    added += add_tokens(tokenizer, model, list(CHAT_TOKENS))
    backend = tokenizer.backend_tokenizer
    if not removes_breakers(tokenizer):
        backend.normalizer = normalizers.Sequence([remove_breakers(), *filter(None, [backend.normalizer])])
    tokenizer.chat_template, tokenizer.response_template = load_template(), RESPONSE_TEMPLATE
    if model is not None:
        for configuration in (model.config, model.generation_config):
            for name, value in token_ids(tokenizer).items():
                setattr(configuration, name, value)
    return added


@torch.no_grad()
def grow_embeddings(model, num_tokens: int) -> None:
    """Resize embedding and head to `num_tokens` rows if they have fewer; the new rows are the mean of the old ones.

    At the mean a new token takes little from the others' probabilities (Hewitt 2021, "Initializing new word embeddings
    for pretrained language models"). transformers' `mean_resizing` adds noise drawn from the covariance of the rows,
    whose eigenvalues it computes first: slow for a wide model.
    """
    old = model.get_input_embeddings().num_embeddings
    if num_tokens <= old:
        return
    model.resize_token_embeddings(num_tokens, mean_resizing=False)
    head = model.get_output_embeddings()
    tensors = {id(w): w for m in (model.get_input_embeddings(), head) if m is not None for w in (m.weight,)}
    if head is not None and getattr(head, "bias", None) is not None:
        tensors[id(head.bias)] = head.bias
    for tensor in tensors.values():  # (V, D) or (V,)
        tensor[old:] = tensor[:old].mean(0, dtype=torch.float32).to(tensor.dtype)
