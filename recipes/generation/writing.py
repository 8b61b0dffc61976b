"""Tokens after a prompt: transformers' `generate`, told what the options say, for whatever command writes text."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import TextStreamer, set_seed

from ...tokenization.encoding import encode_prompt
from ...tokenization.special_tokens import up_to_end
from ..alignment.answering import drawing, padded
from ..options.base import UserError
from ..options.generate import GenerateOptions
from ..options.sampling import SamplingOptions
from ..training.scoring import score_ends


def write(
    model,
    tokenizer,
    prompts: list[list[int]],
    settings: dict,
    until: Sequence[str] = (),
    seed: int | None = None,
    streamer: TextStreamer | None = None,
) -> list[list[int]]:
    """The new ids of each prompt, with the token that ends a text where the model came to it; padded to the left.

    Args:
        settings: what `sampling` gives.
        until: texts after which a row is at its end as well; they are part of it.
        seed: of the draws; None goes on with the generator as it is.
    """
    ids, mask = padded(prompts, settings["pad_token_id"], model.device, left=True)
    ends = end_tokens(model, tokenizer)
    if seed is not None:
        set_seed(seed)
    with drawing():
        out = model.generate(
            ids,
            attention_mask=mask,
            streamer=streamer,
            eos_token_id=ends or None,
            stopping_criteria=[_has_said(tokenizer, until, ids.shape[1])] if until else None,
            **settings,
        )
    new = [up_to_end(row, ends) for row in out[:, ids.shape[1] :].tolist()]
    return [_up_to_text(tokenizer, until, row) for row in new] if until else new


def end_tokens(model, tokenizer) -> list[int]:
    """The ids that end a text; of some families several."""
    ends = model.generation_config.eos_token_id
    ends = tokenizer.eos_token_id if ends is None else ends
    return list(ends) if isinstance(ends, list) else [] if ends is None else [ends]


def _has_said(tokenizer, until: Sequence[str], start: int) -> Callable:
    """Which rows have one of the texts at their end, as transformers asks after each token."""
    longest = _longest(until)

    def has_said(rows: torch.Tensor, scores, **kwargs) -> torch.Tensor:
        said = [_says(tokenizer, until, row) for row in rows[:, max(start, rows.shape[1] - longest) :].tolist()]
        return torch.tensor(said, device=rows.device)

    return has_said


def _up_to_text(tokenizer, until: Sequence[str], ids: list[int]) -> list[int]:
    """A row that has said one of the texts is padded as long as others of its batch go on."""
    longest = _longest(until)
    ends = (i for i in range(1, len(ids) + 1) if _says(tokenizer, until, ids[max(0, i - longest) : i]))
    return ids[: next(ends, len(ids))]


def _says(tokenizer, until: Sequence[str], ids: list[int]) -> bool:
    end = tokenizer.decode(ids)
    return any(text in end for text in until)


def _longest(until: Sequence[str]) -> int:
    """So many tokens hold any of the texts: a token has a byte at least."""
    return max(len(text.encode()) for text in until) + 4


def probabilities(model, tokenizer, ids: list[int], new: list[int]) -> list[dict]:
    """Of each new token what the model gave it, before temperature and whatever else shaped the draw."""
    if not new:
        return []
    (nats,) = score_ends(model, [ids + new], [len(ids)], length=len(ids) + len(new))
    return [
        {"token": tokenizer.decode([token]), "id": token, "probability": probability}
        for token, probability in zip(new, np.exp(-nats).tolist(), strict=True)
    ]


def room(model, ids: list[int], options: SamplingOptions) -> int:
    """Tokens to write after `ids`: as many as are asked for, or those that the model has positions for."""
    if not ids:
        raise UserError("the prompt is empty, and this tokenizer has no token that begins a text; give a prompt")
    longest = getattr(model.config, "max_position_embeddings", None)
    left = options.max_new_tokens if longest is None else min(options.max_new_tokens, longest - len(ids))
    if left < 1:
        raise UserError(f"the prompt has {len(ids)} tokens and the model {longest} positions; shorten it")
    return left


def sampling(options: SamplingOptions, tokenizer) -> dict:
    """What transformers' `generate` is told: how many tokens, and how each is drawn."""
    settings = {"max_new_tokens": options.max_new_tokens, "do_sample": options.temperature > 0}
    if options.temperature > 0:
        settings |= {"temperature": options.temperature, "top_k": options.top_k, "top_p": options.top_p}
        settings |= {"min_p": options.min_p or None}
    return settings | {"repetition_penalty": options.repetition_penalty, "pad_token_id": pad_token(tokenizer)}


def pad_token(tokenizer) -> int:
    """What fills up rows, and is masked: any id will do for a tokenizer that has none for it."""
    known = [token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None]
    return known[0] if known else 0


def settings_of(options: GenerateOptions) -> dict:
    """How it was written, as --json tells it."""
    return {key: value for key, value in vars(options).items() if key not in ("prompt", "json", "stream")}


def continue_text(model, tokenizer, prompt: str, tokens: int, seed: int = 0, temperature: float = 0.7) -> str:
    """One continuation, for reports."""
    was_training = model.training
    options = GenerateOptions(prompt=prompt, max_new_tokens=tokens, temperature=temperature)
    (new,) = write(model.eval(), tokenizer, [encode_prompt(tokenizer, prompt)], sampling(options, tokenizer), seed=seed)
    model.train(was_training)
    return tokenizer.decode(new, skip_special_tokens=True)
