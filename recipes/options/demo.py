"""Options of `rhapsode demo`."""

from dataclasses import dataclass

from .base import UserError, option


@dataclass
class DemoOptions:
    """From raw text to a published model, offline: trains a tokenizer and a model of about 10M parameters on the
    standard library of this Python, measures it against a 5-gram and gzip, writes a sample, exports the model and opens
    the export where Rhapsode cannot be imported."""

    output_dir: str = option("runs/demo", "directory of everything that the demo makes; made again each time")
    max_seconds: float = option(200.0, "time for the training steps, in seconds")
    seed: int = option(0, "of weights, data order and samples")

    def __post_init__(self):
        if self.max_seconds <= 0:
            raise UserError(f"--max_seconds {self.max_seconds} must be above 0")
