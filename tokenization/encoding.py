"""Text to ids: every document, prompt and conversation passes through these functions, and through nothing else.

    document       <|bos|> text <|eos|>
    prompt         <|bos|> text
    conversation   what the chat template says, which begins with <|bos|> too

Special tokens are put in as ids and never as text that is tokenized afterwards. So text that spells one stays text,
and there is one BOS however the tokenizer is set up: Llama's adds one by itself, GPT-2's does not. A tokenizer without
BOS or EOS gets none. Half a surrogate pair, which JSON can smuggle in and UTF-8 has no bytes for, becomes U+FFFD.
"""

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from .guarding import apply_template_guarded, guards_itself, removes_breakers
from .special_tokens import BREAKER
from .surrogates import mend


def encode_documents(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """BOS, the ids of the text, EOS, for each document."""
    bos, eos = _ids(tokenizer.bos_token_id), _ids(tokenizer.eos_token_id)
    return [bos + ids + eos for ids in encode_texts(tokenizer, texts)]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """BOS and the ids of a text that is to be continued."""
    return _ids(tokenizer.bos_token_id) + encode_texts(tokenizer, [text])[0]


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """The ids of each text, none of them a special token; the texts of one call are encoded in parallel."""
    texts = [_spare_breakers(tokenizer, mend(text)) for text in texts]
    if not texts:
        return []
    if not tokenizer.is_fast:
        return tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # as transformers does at each call
    backend.no_padding()
    before, backend.encode_special_tokens = backend.encode_special_tokens, True
    try:
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
    finally:
        backend.encode_special_tokens = before


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict],
    tools: list | None = None,
    add_generation_prompt: bool = False,
) -> dict[str, list[int]]:
    """Ids of a conversation, and a mask over them: 1 on what the assistant says and on the EOS that ends it.

    Args:
        tokenizer: with a chat template; the mask is 0 throughout if that has no `{% generation %}` marks.
        messages: `{"role": ..., "content": ...}`; an assistant's may have `tool_calls`.
        tools: JSON schemas, or functions with type hints and a docstring.
        add_generation_prompt: end where the assistant's next answer begins.

    Raises:
        ValueError: a tokenizer without a chat template.
        jinja2.TemplateError: messages that the template refuses, or a template that fails on them; it says why.
    """
    if not tokenizer.chat_template:
        raise ValueError(f"the tokenizer {tokenizer.name_or_path!r} has no chat_template; set it or add_chat_tokens")
    messages, tools = mend(messages), mend(tools)
    try:
        if not guards_itself(tokenizer, tools):
            return apply_template_guarded(tokenizer, messages, tools, add_generation_prompt)
        encoded = tokenizer.apply_chat_template(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
    except TemplateError:
        raise
    except Exception as error:  # a template is a program: it can divide by zero, or call itself for ever
        raise TemplateError(f"{type(error).__name__}: {error}") from error
    return {"input_ids": encoded["input_ids"], "assistant_masks": encoded["assistant_masks"]}


def _ids(token_id: int | None) -> list[int]:
    return [] if token_id is None else [token_id]


def _spare_breakers(tokenizer, text: str) -> str:
    """Double a breaker that stands after `<` in the text itself, where the tokenizer takes one out."""
    spelled = f"<{BREAKER}"
    if spelled not in text or not removes_breakers(tokenizer):
        return text
    return text.replace(spelled, spelled + BREAKER)
