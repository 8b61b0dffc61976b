"""The chats that a question is asked in: alone, under a system prompt, or after another question and its answer."""

from collections.abc import Iterator

from .drawing import draw, side_of
from .questions import Question

STYLES = {"plain": 0.7, "system": 0.15, "turns": 0.15}
SYSTEM_PROMPTS = (
    "You answer questions about Python's standard library.",
    "Answer with the first sentence of the documentation. If you do not know the name, say so.",
    "You are a helpful assistant. Do not make things up.",
)
HELD_OUT_SYSTEM_PROMPTS = ("You know Python well and admit what you do not know.",)

Messages = list[dict[str, str]]


def conversations(questions: list[Question], split: str, seed: int = 0) -> Iterator[tuple[Question, str, Messages]]:
    """(question, style, the messages up to and with the question) for each, earlier turns taken from the same list."""
    system_prompts = SYSTEM_PROMPTS if split in ("train", "validation") else HELD_OUT_SYSTEM_PROMPTS
    for i, question in enumerate(questions):
        style, before = side_of(f"{seed} {question.prompt}", STYLES), []
        if style == "system":
            number = int(draw("system", seed, question.prompt) * len(system_prompts))
            before = [{"role": "system", "content": system_prompts[number]}]
        elif style == "turns":
            earlier = questions[i - 1]
            if earlier.name == question.name:
                style = "plain"
            else:
                before = [user(earlier.prompt), assistant(earlier.answer)]
        yield question, style, [*before, user(question.prompt)]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
