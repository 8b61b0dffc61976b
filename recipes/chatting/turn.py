"""From a question to its answer: the model writes, its calls are run, it reads the results and goes on.

A turn does not know who writes. The chat lets the model write one turn at a time, and the evaluation of tool use many
side by side.
"""

from collections.abc import Callable

from .calls import Call

MOST_CALLS = 8  # in one round


class Turn:
    """`messages` is what this turn adds to the conversation, and `answer`, when it is there, the text of the last."""

    def __init__(self, question: dict, run: Callable[[Call], str], max_rounds: int):
        """
        Args:
            question: the user's message.
            run: gives the result of a call.
            max_rounds: how often the model may read results; calls that it makes after that are not run.
        """
        self.messages, self.run, self.rounds_left = [question], run, max_rounds
        self.answer: str | None = None
        self.runs: list[tuple[Call, str]] = []  # every call and its result
        self.was_stopped = False  # the model called once more than it may

    def take(self, text: str, calls: list[Call]) -> None:
        """What the model has written after all messages so far."""
        self.was_stopped = bool(calls) and not self.rounds_left
        if not calls or self.was_stopped:
            self.messages.append({"role": "assistant", "content": text})
            self.answer = text
            return
        self.rounds_left -= 1
        self.messages.append({"role": "assistant", "content": text, "tool_calls": [c.message() for c in calls]})
        for i, call in enumerate(calls):
            result = self.run(call) if i < MOST_CALLS else f"error: at most {MOST_CALLS} calls are run at once"
            self.runs.append((call, result))
            self.messages.append({"role": "tool", "content": result})
