"""What the model has written, taken apart: its text, and the calls of tools between special tokens.

    text <|tool_call|>{"name": ..., "arguments": {...}} <|tool_call|>... <|eos|>

The inverse of the chat template. It cuts at the ids of special tokens: a `<|tool_call|>` that is spelled with ordinary
tokens, by a user or in a document, is text. JSON is read strictly; what is not a call comes back as one with a `fault`,
which the model gets to read as its result.
"""

import json
from typing import NamedTuple

from ...tokenization.special_tokens import TOOL_CALL

UNREADABLE = "unreadable_call"  # the name under which such a call stands in the history


class Call(NamedTuple):
    name: str
    arguments: dict
    fault: str = ""

    def message(self) -> dict:
        """As the `tool_calls` of a message have it."""
        return {"type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def call_marker(tokenizer) -> int | None:
    """The id that opens a call; None for a tokenizer that has no such token."""
    token = tokenizer.convert_tokens_to_ids(TOOL_CALL)
    return token if token in tokenizer.all_special_ids and token != tokenizer.unk_token_id else None


def read_answer(tokenizer, ids: list[int]) -> tuple[str, list[Call]]:
    """(text, calls) of the ids that follow the assistant's marker, up to the end of the turn."""
    special, marker = set(tokenizer.all_special_ids), call_marker(tokenizer)
    text, calls = [], []
    for token in ids:
        if token == tokenizer.eos_token_id:
            break
        if token == marker:
            calls.append([])
        else:
            (calls[-1] if calls else text).append(token)
    said = tokenizer.decode([token for token in text if token not in special])
    return said, [_read_call(tokenizer, part, special) for part in calls]


def _read_call(tokenizer, ids: list[int], special: set[int]) -> Call:
    text = tokenizer.decode(ids)
    try:
        if special & set(ids):
            raise ValueError("it holds a special token")
        call = json.loads(text, parse_constant=_refuse, object_pairs_hook=_once_each)
        if not isinstance(call, dict) or call.keys() != {"name", "arguments"}:
            raise ValueError("it must be an object with name and arguments, and nothing else")
        if not isinstance(call["name"], str) or not isinstance(call["arguments"], dict):
            raise ValueError("name must be a text and arguments an object")
        return Call(**call)
    except (ValueError, RecursionError) as error:
        return Call(UNREADABLE, {"text": text}, f"this is not a call ({error})")


def _refuse(constant: str):
    raise ValueError(f"{constant} is not JSON")


def _once_each(pairs: list[tuple]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found
