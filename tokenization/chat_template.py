"""The chat template that is shipped with every tokenizer, and the check of one that a user puts in its place."""

import re
from functools import cache
from pathlib import Path

from jinja2 import TemplateSyntaxError
from transformers.utils.chat_template_utils import render_jinja_template

from .special_tokens import ASSISTANT, BOS, EOS, TOOL_CALL

PROBE = ({"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"})

# How `tokenizer.parse_response` turns the assistant's ids back into a message: the inverse of the template.
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": ASSISTANT,
    "fields": {
        "tool_calls": {
            "open": TOOL_CALL,
            "close_pattern": f"(?={re.escape(TOOL_CALL)}|{re.escape(EOS)})",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": re.escape(EOS), "content": "text"},
    },
}


@cache
def load_template() -> str:
    return (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")


def read_template(path: str | Path) -> str:
    """A chat template from a file, after rendering a question and an answer with it.

    Raises:
        ValueError: a file that cannot be read, a mistake in the syntax (with its line), a template that fails on the
            probe or does not show its texts.
    """
    try:
        source = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"chat template {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        (rendered,), _ = render_jinja_template([[*PROBE]], chat_template=source, bos_token=BOS, eos_token=EOS)
    except TemplateSyntaxError as error:
        raise ValueError(f"chat template {path}, line {error.lineno}: {error.message}") from error
    except Exception as error:  # a template is a program: it can divide by zero, or call itself for ever
        raise ValueError(f"chat template {path} fails on a question and an answer: {error}") from error
    missing = [message["content"] for message in PROBE if message["content"] not in rendered]
    if missing:
        raise ValueError(
            f"chat template {path} leaves out the content of messages ({missing[0]!r} is not in its output)"
        )
    return source
