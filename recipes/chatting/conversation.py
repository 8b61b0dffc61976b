"""What has been said, and what of it the model still sees: where the context is full, the oldest turns go, whole.

A turn is a question and all that follows it up to the next one. The system prompt always stays, and so does the turn
that is going on.
"""

from collections.abc import Callable

from ..options.base import UserError

Messages = list[dict]


class Conversation:
    def __init__(self, system: str | None = None):
        self.system = [{"role": "system", "content": system}] if system else []
        self.turns: list[Messages] = []
        self.first = 0  # of the turns that the model sees

    @property
    def messages(self) -> Messages:
        """All that has been said, as files of conversations have it."""
        return self.system + [message for turn in self.turns for message in turn]

    def visible(self, now: Messages, encode: Callable[[Messages], list[int]], room: int) -> list[int]:
        """The ids of what the model sees: at most `room` of them, which end with `now`.

        Raises:
            UserError: `now` alone is too long.
        """
        while True:
            seen = [message for turn in self.turns[self.first :] for message in turn]
            ids = encode(self.system + seen + now)
            if len(ids) <= room:
                return ids
            if self.first == len(self.turns):
                raise UserError(f"this turn has {len(ids)} tokens and the context holds {room} before an answer")
            self.first += 1

    def take_back(self) -> None:
        """Forget the last turn."""
        self.turns.pop()
        self.first = min(self.first, len(self.turns))

    def reset(self) -> None:
        self.turns, self.first = [], 0
