"""Keeping what a message spells apart from what the template writes.

A chat template yields one string, in which the `<|eos|>` that a user typed looks like the one that ends a turn. With
our tokenizer and template nothing has to be done: the template breaks such spellings with `BREAKER`, special tokens are
recognised, and only then does the tokenizer's normalizer take the breakers out. That holds whoever calls
`tokenizer.apply_chat_template`, trl and servers included.

With another family's template this module does it from outside: it marks the spellings in the messages, renders, cuts
the string at the marks, which leaves no special token whole, and encodes the pieces. (SentencePiece tokenizers begin
each piece with a space: there, and only in messages that spell a special token, the model reads `< /s>`.)
"""

import re

from transformers.utils.chat_template_utils import get_json_schema, render_jinja_template

from .special_tokens import BREAKER

MARK = "\ufdd1"  # a noncharacter like BREAKER
MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")  # around what the assistant says, for its mask


def removes_breakers(tokenizer) -> bool:
    """Whether the tokenizer takes out a breaker after `<`."""
    normalizer = tokenizer.backend_tokenizer.normalizer if tokenizer.is_fast else None
    return normalizer is not None and BREAKER not in normalizer.normalize_str(f"<{BREAKER}|")


def guards_itself(tokenizer, tools=None) -> bool:
    """Whether `tokenizer.apply_chat_template` cannot be made to write a special token by a message."""
    template = tokenizer.get_chat_template(tools=tools)
    knows_breaker = BREAKER in template or BREAKER.encode("unicode_escape").decode() in template
    added = tokenizer.added_tokens_decoder.values()
    breakable = all(token.content.startswith("<|") and not token.normalized for token in added)
    return knows_breaker and breakable and removes_breakers(tokenizer)


def apply_template_guarded(tokenizer, messages: list, tools: list | None, add_generation_prompt: bool) -> dict:
    """`tokenizer.apply_chat_template` with masks, for a template that does not guard itself; fast tokenizers only."""
    template = tokenizer.get_chat_template(tools=tools)
    spellings = _spellings(tokenizer, template)
    schemas = None if tools is None else [get_json_schema(tool) if callable(tool) else tool for tool in tools]
    marked = MARKS.search(template) is not None  # to ask for a mask without marks makes transformers warn
    (rendered,), spans = render_jinja_template(
        conversations=[_mark([{k: v for k, v in m.items() if v is not None} for m in messages], spellings)],
        tools=_mark(schemas, spellings),
        chat_template=template,
        return_assistant_tokens_mask=marked,
        add_generation_prompt=add_generation_prompt,
        **tokenizer.special_tokens_map,
    )
    ids, mask, begin = [], [], 0
    for piece in rendered.split(MARK):
        encoded = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids += encoded["input_ids"]
        mask += [_inside(begin + start, spans[0] if marked else []) for start, _ in encoded["offset_mapping"]]
        begin += len(piece) + len(MARK)
    return {"input_ids": ids, "assistant_masks": mask}


def _spellings(tokenizer, template: str) -> re.Pattern:
    """Matches every token that is recognised in text and means something to the template or to transformers."""
    added = tokenizer.added_tokens_decoder.values()
    control = [t.content for t in added if t.special or (t.content in template and not t.content.isspace())]
    longest_first = sorted(control, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _mark(value, spellings: re.Pattern):
    """`value` with a mark after the first character of every spelling, in any string within it."""
    if isinstance(value, str):
        return spellings.sub(lambda found: found[0][0] + MARK + found[0][1:], value.replace(MARK, ""))
    if isinstance(value, dict):
        return {_mark(key, spellings): _mark(item, spellings) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mark(item, spellings) for item in value]
    return value


def _inside(position: int, spans: list[tuple[int, int]]) -> int:
    return int(any(start <= position < end for start, end in spans))
