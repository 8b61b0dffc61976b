"""Functions that a model may call: by a registered name, with checked arguments, and nothing else.

What the model has written is data. The name is looked up in a table, the arguments are checked against the JSON schema
that transformers derives from the function's type hints and docstring, and whatever goes wrong is a result, too: it
begins with "error: ", and the model reads it.
"""

import json
from collections.abc import Callable

from jsonschema import Draft202012Validator
from transformers.utils import get_json_schema

from ..options.base import one_line
from .calls import Call

LONGEST_RESULT = 4000  # characters; the rest is cut off, and the model is told


class Tools:
    """A table of functions. Each has type hints and a docstring with a line for each of its arguments.

    A function says what is wrong with its arguments by a ValueError.
    """

    def __init__(self, *functions: Callable):
        self._functions = {function.__name__: function for function in functions}
        self.schemas = [_schema(function) for function in functions]
        parameters = {s["function"]["name"]: s["function"]["parameters"] for s in self.schemas}
        self._validators = {name: Draft202012Validator(_closed(schema)) for name, schema in parameters.items()}

    def run(self, call: Call) -> str:
        """The result of a call, or "error: " and what was wrong with it."""
        if call.fault:
            return f"error: {one_line(call.fault, 300)}"
        if call.name not in self._functions:
            return f"error: there is no tool {call.name[:60]!r}; use {', '.join(self._functions) or 'none'}"
        wrong = next(self._validators[call.name].iter_errors(call.arguments), None)
        if wrong:
            return f"error: arguments of {call.name}: {one_line(wrong.message, 300)}"
        try:
            result = self._functions[call.name](**call.arguments)
        except Exception as error:  # a tool that fails must not end the chat
            return f"error: {one_line(error, 300)}"
        text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
        cut = len(text) - LONGEST_RESULT
        return text if cut <= 0 else f"{text[:LONGEST_RESULT]} ... ({cut} characters more)"


def _schema(function: Callable) -> dict:
    """Without the type of the result, which the model sees when it is there."""
    schema = get_json_schema(function)
    schema["function"].pop("return", None)
    return schema


def _closed(schema: dict) -> dict:
    """No arguments but those that are named, and null where a type hint allows None: JSON schema has no `nullable`."""
    properties = {
        name: {"anyOf": [schema, {"type": "null"}]} if schema.get("nullable") else schema
        for name, schema in schema["properties"].items()
    }
    return schema | {"properties": properties, "additionalProperties": False}
