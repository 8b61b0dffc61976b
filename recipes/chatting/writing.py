"""The model at work: messages to ids, and what it writes after them, until it ends its turn or is stopped."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from jinja2 import TemplateError

from ...tokenization.encoding import encode_conversation
from ...tokenization.special_tokens import TOOL_CALL
from ..alignment.answering import drawing
from ..generation.writing import end_tokens, sampling
from ..options.base import UserError, one_line
from ..options.chat import ChatOptions
from ..training.interrupt import Interrupt
from .calls import call_marker
from .streaming import AnswerStreamer

LONGEST_BY_DEFAULT = 2048  # of a model that does not say
ANSWER_SHARE = 0.25  # of the context stay free for the answer, where --max_new_tokens wants more


class Written(NamedTuple):
    ids: list[int]
    seconds: float
    is_whole: bool  # it ended its turn
    signal: str | None  # what stopped it


class Writer:
    """
    Raises:
        UserError: a model that was not made for chats, or not for calls where there are tools; a context too long.
    """

    def __init__(self, model, tokenizer, options: ChatOptions, schemas: list[dict]):
        if not tokenizer.chat_template:
            raise UserError(f"--model {options.model}: it has no chat_template; train it with rhapsode sft first")
        if schemas and (call_marker(tokenizer) is None or TOOL_CALL not in tokenizer.get_chat_template(tools=schemas)):
            raise UserError(f"--tools: {options.model} does not write calls as {TOOL_CALL}, which is how they are read")
        self.model, self.tokenizer, self.schemas = model, tokenizer, schemas
        longest = getattr(model.config, "max_position_embeddings", None)
        if options.max_length and longest and options.max_length > longest:
            raise UserError(f"--max_length {options.max_length} is longer than the model's {longest} positions")
        self.length = options.max_length or longest or LONGEST_BY_DEFAULT
        self.ends = end_tokens(model, tokenizer)
        self.use(options)

    def use(self, options: ChatOptions) -> None:
        """Write by these options from now on."""
        self.options, self.settings = options, sampling(options, self.tokenizer)
        self.room = self.length - max(1, min(options.max_new_tokens, int(self.length * ANSWER_SHARE)))

    def encode(self, messages: list[dict]) -> list[int]:
        """The ids up to where the assistant's answer begins."""
        try:
            encoded = encode_conversation(self.tokenizer, messages, self.schemas or None, add_generation_prompt=True)
        except TemplateError as error:
            raise UserError(f"--model {self.options.model}: its chat template says: {one_line(error)}") from error
        return encoded["input_ids"]

    def write(self, ids: list[int], show: Callable[[str], None] | None = None) -> Written:
        """What the model writes after `ids`. Ctrl-C ends the answer, and what is there of it counts."""
        prompt = torch.tensor([ids], device=self.model.device)
        longest = min(self.options.max_new_tokens, self.length - len(ids))
        start = time.perf_counter()
        with Interrupt() as interrupt, drawing():
            out = self.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                streamer=AnswerStreamer(self.tokenizer, show) if show else None,
                stopping_criteria=[lambda rows, scores, **kwargs: _all(rows, interrupt.name is not None)],
                eos_token_id=self.ends,
                **self.settings | {"max_new_tokens": longest},
            )
        new = out[0, len(ids) :].tolist()
        return Written(new, time.perf_counter() - start, bool(new) and new[-1] in self.ends, interrupt.name)


def _all(rows: torch.Tensor, value: bool) -> torch.Tensor:
    return torch.full((len(rows),), value, device=rows.device)
