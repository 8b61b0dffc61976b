"""Does a model call its tools as the data do? Measured on held-out conversations, without running anything.

    right_tools         the share of conversations in which the model calls the tools that the data call, or none
    call_match          of those with calls, the share in which also the arguments of every call are the data's
    no_needless_call    of those without, the share in which the model calls nothing
    right_answers       of all, the share in which the text at the end is the data's, spaces aside

The model goes the whole way by itself. A call that the data have gets the result that it has there; any other is told
that there is none, and the model may try again.
"""

import json
from contextlib import suppress

from ..chatting.calls import Call, read_answer
from ..chatting.turn import Turn
from .answering import answer, encode_prompts

MAX_ROUNDS = 4
NO_RESULT = "error: no result"


class Recorded:
    """A row's conversation: what comes before its last question, that question, and what the data have after it."""

    def __init__(self, row: dict):
        messages = row["messages"]
        last = max(i for i, message in enumerate(messages) if message["role"] == "user")
        self.before, self.tools, self.rest = messages[:last], row.get("tools"), messages[last + 1 :]
        self.turn = Turn(messages[last], self._run, MAX_ROUNDS)
        called = [call.get("function", call) for m in self.rest for call in m.get("tool_calls") or []]
        results = [message["content"] for message in self.rest if message["role"] == "tool"]
        self.names = [call["name"] for call in called]
        self.calls = [_key(call["name"], call["arguments"]) for call in called]
        self.results = dict(zip(self.calls, results, strict=False))

    @property
    def messages(self) -> list[dict]:
        return self.before + self.turn.messages

    @property
    def has_right_tools(self) -> bool:
        return [call.name for call, _ in self.turn.runs] == self.names

    @property
    def matches(self) -> bool:
        return [_key(call.name, call.arguments) for call, _ in self.turn.runs] == self.calls

    @property
    def is_right(self) -> bool:
        return (self.turn.answer or "").split() == (self.rest[-1]["content"] or "").split()

    def _run(self, call: Call) -> str:
        return self.results.get(_key(call.name, call.arguments), NO_RESULT)


def measure_tool_use(model, tokenizer, rows: list[dict], length: int, max_new_tokens: int, batch_size: int) -> dict:
    """The shares above, those of nothing left out, and `tool_rows`, the number of rows.

    Args:
        rows: of `sft_dataset`, with `messages` and `tools`.
        length: tokens that the model can see; where a conversation becomes longer, it has no answer.
    """
    recorded = [Recorded(row) for row in rows]
    going = recorded
    while going:
        prompts = encode_prompts(tokenizer, [r.messages for r in going], [r.tools for r in going])
        fitting = [(r, ids) for r, ids in zip(going, prompts, strict=True) if len(ids) + max_new_tokens <= length]
        written = answer(model, tokenizer, [ids for _, ids in fitting], max_new_tokens, batch_size)
        for (r, _), ids in zip(fitting, written, strict=True):
            r.turn.take(*read_answer(tokenizer, ids))
        going = [r for r, _ in fitting if r.turn.answer is None]
    shares = {
        "right_tools": [r.has_right_tools for r in recorded],
        "call_match": [r.matches for r in recorded if r.calls],
        "no_needless_call": [r.matches for r in recorded if not r.calls],
        "right_answers": [r.is_right for r in recorded],
    }
    return {name: sum(kept) / len(kept) for name, kept in shares.items() if kept} | {"tool_rows": len(recorded)}


def _key(name: str, arguments: dict | str) -> str:
    """Equal for equal calls, whatever the order of their arguments; data may have these as JSON in a text."""
    if isinstance(arguments, str):
        with suppress(ValueError):
            arguments = json.loads(arguments)
    return json.dumps([name, arguments], sort_keys=True)
