"""Options of `rhapsode generate`."""

from dataclasses import dataclass

from .base import option
from .sampling import SamplingOptions


@dataclass
class GenerateOptions(SamplingOptions):
    """Continue a text with any causal language model, as it is written or, with --no-stream, at the end."""

    prompt: str = option("", "text to continue; the empty text lets the model begin", positional=True)
    num_return_sequences: int = option(1, "continuations to write; more than one are not streamed")
    stream: bool = option(True, "print each word as soon as it is there")
    json: bool = option(False, "print one JSON object: prompt, continuations, settings, tokens per second")

    def __post_init__(self):
        super().__post_init__()
        self._check_range("num_return_sequences", 1)
