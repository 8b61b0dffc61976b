"""Stopping in an orderly way: Ctrl-C and SIGTERM let the current step finish, so that it can be saved."""

import signal


class Interrupt:
    """A context in which the first SIGINT or SIGTERM only sets `name`; a second one acts as usual."""

    def __init__(self):
        self.name: str | None = None
        self._previous = {}

    def __enter__(self) -> "Interrupt":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, frame) -> None:
        self.name = signal.Signals(number).name
        signal.signal(number, self._previous[number])
