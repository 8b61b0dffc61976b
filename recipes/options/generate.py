"""Options of `rhapsode generate`."""

from dataclasses import dataclass

from .base import UserError, option


@dataclass
class GenerateOptions:
    """Continue a text with any causal language model, as it is written or, with --no-stream, at the end."""

    prompt: str = option("", "text to continue; the empty text lets the model begin", positional=True)
    model: str = option("runs/pretrain", "directory or Hub id")
    max_new_tokens: int = option(128, "tokens to write at most")
    temperature: float = option(0.8, "0 is greedy; below 1 sharpens, above 1 flattens the distribution")
    top_k: int = option(0, "draw from the k likeliest tokens; 0 is all")
    top_p: float = option(1.0, "draw from the likeliest tokens that together have this probability")
    min_p: float = option(0.0, "leave out tokens below this share of the likeliest one's probability")
    repetition_penalty: float = option(1.0, "above 1 makes tokens that were there less likely")
    num_return_sequences: int = option(1, "continuations to write; more than one are not streamed")
    seed: int | None = option(None, "of the draws; none is a new one each time")
    stream: bool = option(True, "print each word as soon as it is there")
    json: bool = option(False, "print one JSON object: prompt, continuations, settings, tokens per second")
    trust_remote_code: bool = option(False, "run the model code that the directory or repository brings")

    def __post_init__(self):
        for name, low, high in (
            ("max_new_tokens", 1, None),
            ("num_return_sequences", 1, None),
            ("temperature", 0, None),
            ("top_k", 0, None),
            ("top_p", 0, 1),
            ("min_p", 0, 1),
        ):
            value = getattr(self, name)
            if value < low or (high is not None and value > high):
                bound = f"{low} or more" if high is None else f"from {low} to {high}"
                raise UserError(f"--{name} {value} must be {bound}")
        if self.top_p == 0:
            raise UserError("--top_p 0 leaves no token to draw; use 1 for all")
        if self.repetition_penalty <= 0:
            raise UserError(f"--repetition_penalty {self.repetition_penalty} must be above 0; 1 is off")
