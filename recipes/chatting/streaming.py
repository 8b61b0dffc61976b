"""Text on its way to the terminal: each word as soon as it is there, and none of the calls of tools."""

from collections.abc import Callable

from transformers import TextStreamer

from ..options.base import printable
from .calls import call_marker


class AnswerStreamer(TextStreamer):
    """Calls `show` with each piece of one answer, in the order in which a tool's call comes last."""

    def __init__(self, tokenizer, show: Callable[[str], None]):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.show, self.marker, self.is_call = show, call_marker(tokenizer), False

    def put(self, value):
        self.is_call |= not self.next_tokens_are_prompt and value.tolist() == [self.marker]
        if not self.is_call:
            super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False):
        self.show(printable(text))
