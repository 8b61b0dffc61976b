"""One or two texts as ids. The head reads the last one, which is always EOS, as GPT-1's is its token for extraction.

    text         <|bos|> text <|eos|>
    two texts    <|bos|> text <|eos|> text_pair <|eos|>

GPT-1 adds a token that begins, one that delimits and one that ends. Here these are tokens that the model has met where
documents begin and end: nothing has to be learned anew. `teach` makes the tokenizer that is saved do the same by
itself, so that `pipeline("text-classification")` scores the very ids that were trained on.
"""

from tokenizers import processors
from transformers import PreTrainedTokenizerBase

from ...tokenization.encoding import encode_texts
from ..options.base import UserError


def encode_rows(tokenizer: PreTrainedTokenizerBase, rows: list[dict]) -> list[list[list[int]]]:
    """For each row the ids of its one or two texts, without special tokens."""
    first = encode_texts(tokenizer, [row["text"] for row in rows])
    second = iter(encode_texts(tokenizer, [row["text_pair"] for row in rows if row["text_pair"] is not None]))
    return [[ids] if row["text_pair"] is None else [ids, next(second)] for ids, row in zip(first, rows, strict=True)]


def assemble(tokenizer: PreTrainedTokenizerBase, texts: list[list[int]]) -> list[int]:
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return bos + [i for ids in texts for i in [*ids, tokenizer.eos_token_id]]


def shortened(texts: list[list[int]], excess: int) -> list[list[int]]:
    """The texts without `excess` ids, each taken from the end of that which is the longest just then."""
    lengths = [len(ids) for ids in texts]
    for _ in range(excess):
        lengths[lengths.index(max(lengths))] -= 1
    return [ids[:length] for ids, length in zip(texts, lengths, strict=True)]


def teach(tokenizer: PreTrainedTokenizerBase, length: int) -> None:
    """Make `tokenizer(text, text_pair)` give what `assemble` does, and cut at `length` where it is told to cut.

    Raises:
        UserError: a tokenizer that cannot be taught, for it has no description of itself (a slow one).
    """
    if not tokenizer.is_fast:
        raise UserError(f"tokenizer {tokenizer.name_or_path}: a slow one, which cannot be set up to end texts with EOS")
    end, begin = tokenizer.eos_token, tokenizer.bos_token
    specials = {token: tokenizer.convert_tokens_to_ids(token) for token in (begin, end) if token is not None}
    single = [*([begin] if begin is not None else []), "$A", end]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single,
        pair=[*single, "$B", end],  # both of type 0: a decoder has no types
        special_tokens=list(specials.items()),
    )
    tokenizer.model_max_length = length
