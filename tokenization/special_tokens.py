"""The special tokens, in the order of their ids: the same ids whatever the algorithm and the vocabulary's size.

One token stops everything: `<|eos|>` ends a document in pretraining and the assistant's turn in a chat, so that
tokenizer, configuration and generation configuration cannot disagree about it. Padding is a token of its own: where it
is also the end of the text, a model that ignores padding in its loss never learns to stop.

A turn opens with the marker of its role. The assistant's ends with `<|eos|>`, every other where the next one opens.
"""

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
TOOLS, TOOL_CALL, TOOL_RESULT = "<|tools|>", "<|tool_call|>", "<|tool_result|>"
RESERVED = tuple(f"<|reserved_{i}|>" for i in range(7))
SPECIAL_TOKENS = (PAD, BOS, EOS, SYSTEM, USER, ASSISTANT, TOOLS, TOOL_CALL, TOOL_RESULT, *RESERVED)
CHAT_TOKENS = SPECIAL_TOKENS[3:9]

# Only where an algorithm cannot spell everything; after the others, so that their ids do not depend on it.
UNK = "<|unk|>"

# A code point that Unicode keeps free of meaning ("noncharacter"). The chat template puts it after the `<` of whatever
# looks like a special token inside a message, which then no longer is one, and the tokenizer's normalizer takes it out
# again, after the special tokens have been recognised: the model reads the message as it was written.
BREAKER = "\ufdd0"


def up_to_end(ids: list[int], ends: list[int]) -> list[int]:
    """What was written: the ids up to the first that ends a text, with it; all of them where there is none."""
    return ids[: next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))]
