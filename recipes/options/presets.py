"""Options of `rhapsode presets`."""

from dataclasses import dataclass

from .base import option


@dataclass
class PresetsOptions:
    """The named designs: parameters, memory, and arithmetic of a training step."""

    EXAMPLES = (
        "rhapsode presets",
        "rhapsode presets gpt2 rhapsode-10m-tiny --json",
    )

    names: list[str] = option([], "presets to show; none is all but the -tiny ones", positional=True)
    json: bool = option(False, "print a JSON list")
