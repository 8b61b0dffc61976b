"""A byte-level BPE tokenizer in GGUF: entries, merges, special tokens, chat template.

llama.cpp knows how to cut text into words by the name of a model that it has been taught; there is no field for an
expression. Ours (`tokenization/splitting.py`) is not among them, so the nearest is found by measure: each candidate
tokenizes the same texts, here, by the same library, and the one with most of our tokens is written into the file. A
tokenizer that a candidate was made for has all of its tokens.
"""

import json
import re
from collections.abc import Iterable
from itertools import islice

import gguf
from tokenizers import Regex, Tokenizer, pre_tokenizers

MOST_CHARACTERS = 1 << 20  # of the texts that are compared

LLAMA3 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# As in llama.cpp's llama-vocab.cpp; each expression cuts what the ones before it left.
PRE_TOKENIZERS = {
    "llama-bpe": (LLAMA3,),
    "qwen2": (LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"),),
    "gpt-2": (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",),
    "superbpe": (r"\p{N}+", r"(?=(\d{3})+(?!\d))"),  # almost no cuts: the merges themselves hold words apart
}


def add_vocabulary(writer, tokenizer, vocab_size: int, texts: Iterable[str]) -> dict:
    """Returns the name of the `pre_tokenizer` and the share of `same_tokens` that it gives on `texts`.

    Raises:
        ValueError: for another kind of tokenizer.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"] if tokenizer.is_fast else {"type": "slow"}
    step = tokenizer.backend_tokenizer.pre_tokenizer if tokenizer.is_fast else None
    if model["type"] != "BPE" or "ByteLevel" not in str(step):
        raise ValueError(
            f"a tokenizer of kind {model['type']} cannot be written to GGUF, byte-level BPE can "
            "(rhapsode tokenizer --algorithm bpe)"
        )
    name, share = nearest_pre_tokenizer(tokenizer, texts)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    entries, kinds = _entries(tokenizer, vocab_size)
    writer.add_token_list(entries)
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    writer.add_add_bos_token(tokenizer("a").input_ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(False)
    for kind in ("bos", "eos", "pad", "unk"):
        if (token := getattr(tokenizer, f"{kind}_token_id")) is not None:
            getattr(writer, f"add_{kind}_token_id")(token)
    if tokenizer.chat_template:
        writer.add_chat_template(plain_template(tokenizer.chat_template))
    return {"pre_tokenizer": name, "same_tokens": share}


def plain_template(template: str) -> str:
    """Without `{% generation %}`, which marks what to train on: plain Jinja does not know it."""
    return re.sub(r"\{%(-?)\s*(end)?generation\s*(-?)%\}", r"{#\1 \3#}", template)


def _entries(tokenizer, vocab_size: int) -> tuple[list[str], list[int]]:
    """Each id's spelling, in the alphabet of bytes, and its kind; ids above the tokenizer's are unused."""
    spelling = {index: token for token, index in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    entries, kinds = [], []
    for index in range(vocab_size):
        entries.append(spelling.get(index, f"[PAD{index}]"))
        if index not in spelling:
            kinds.append(gguf.TokenType.UNUSED)
        elif index in added:
            kinds.append(gguf.TokenType.CONTROL if added[index].special else gguf.TokenType.USER_DEFINED)
        else:
            kinds.append(gguf.TokenType.NORMAL)
    return entries, kinds


def nearest_pre_tokenizer(tokenizer, texts: Iterable[str]) -> tuple[str, float]:
    """The candidate that gives most of the tokenizer's own tokens, at the same places, and the share of them."""
    texts, ours = list(_limited(texts)), tokenizer.backend_tokenizer
    wanted = [_placed(ours, text) for text in texts]
    total = sum(map(len, wanted))
    if total == 0:
        raise ValueError("there is no text to choose llama.cpp's pre-tokenizer by; give some")
    shares = {}
    for name in PRE_TOKENIZERS:
        theirs = as_llama_cpp(ours, name)
        shares[name] = sum(len(want & _placed(theirs, text)) for want, text in zip(wanted, texts, strict=True)) / total
    return max(shares.items(), key=lambda item: item[1])


def as_llama_cpp(tokenizer: Tokenizer, name: str) -> Tokenizer:
    """The tokenizer with the cuts that llama.cpp makes under `name`, and no normalizer: it has none."""
    fields = json.loads(tokenizer.to_str()) | {"normalizer": None}
    fields["model"]["ignore_merges"] = name == "llama-bpe"
    theirs = Tokenizer.from_str(json.dumps(fields))
    cuts = [pre_tokenizers.Split(Regex(expression), behavior="isolated") for expression in PRE_TOKENIZERS[name]]
    theirs.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return theirs


def _placed(tokenizer: Tokenizer, text: str) -> set:
    encoding = tokenizer.encode(text, add_special_tokens=False)
    return set(zip(encoding.ids, encoding.offsets, strict=True))


def _limited(texts: Iterable[str]) -> Iterable[str]:
    left = MOST_CHARACTERS
    for text in islice(texts, 1000):
        if left <= 0:
            return
        yield text[:left]
        left -= len(text)
