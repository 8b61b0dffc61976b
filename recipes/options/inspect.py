"""Options of `rhapsode inspect`."""

from dataclasses import dataclass

from .base import UserError, option


@dataclass
class InspectOptions:
    """One self-contained HTML page about what a causal language model makes of a text: the surprise of each token, the
    candidates at each position, attention of every head, the logit lens, rotary angles, the architecture with its
    shapes, the growth of the KV cache, and what temperature, top-k, top-p and min-p do to a distribution. It loads
    nothing from a network. With --architecture it draws a preset, without weights and without a text."""

    EXAMPLES = (
        'rhapsode inspect runs/demo/model "import os"',
        "rhapsode inspect --architecture falcon-7b",
    )

    model: str | None = option(None, "directory or Hub id of any causal language model", positional=True)
    text: str | None = option(None, "the text to look at", positional=True)
    architecture: str | None = option(None, "draw this preset, see rhapsode presets, in place of a model")
    output: str = option("inspect.html", "the page, replaced if it is there")
    max_tokens: int = option(96, "tokens of the text to look at, from its beginning; attention grows with their square")
    top: int = option(10, "candidates listed at each position")
    trust_remote_code: bool = option(False, "run the model code that the directory or repository brings")

    def __post_init__(self):
        if self.architecture and (self.model or self.text):
            raise UserError("--architecture draws a preset, which reads no text; give it alone, or a model and a text")
        if self.max_tokens < 2:
            raise UserError(f"--max_tokens {self.max_tokens} leaves nothing to predict; use 2 or more")
        if self.top < 1:
            raise UserError(f"--top {self.top} must be above 0")
        if not self.output.endswith((".html", ".htm")):
            raise UserError(f"--output {self.output} must end in .html, so that a browser opens it")
