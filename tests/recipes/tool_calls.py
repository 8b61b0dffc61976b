"""Calls of tools as token ids: what a model that has learned the template writes, and what one that has not may."""

from rhapsode.tokenization import encode_conversation
from rhapsode.tokenization.special_tokens import TOOL_CALL


def written(tokenizer, message: dict) -> list[int]:
    """The ids of an assistant's turn, which the template made."""
    question = [{"role": "user", "content": "?"}]
    prompt = encode_conversation(tokenizer, question, add_generation_prompt=True)["input_ids"]
    return encode_conversation(tokenizer, [*question, message])["input_ids"][len(prompt) :]


def ids_of(tokenizer, *calls: str, text: str = "") -> list[int]:
    """As a model may write it: any text after the special token."""
    marker = tokenizer.convert_tokens_to_ids(TOOL_CALL)
    parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, *calls)]
    return parts[0] + [i for part in parts[1:] for i in (marker, *part)] + [tokenizer.eos_token_id]
