"""Where a token may not reach across: the cuts that are made before an algorithm sees the text.

A regular expression cuts the text into words, numbers, punctuation and white space, as GPT-2 did (Radford et al. 2019).
Ours differs for numbers, in groups of at most three digits, and for source code: a line break, with the punctuation
before it, keeps the indentation after it, so that `:` and the start of the next line are often one token. Nothing is
dropped: what the expression leaves over is a piece as well. In the dialect of `tokenizers`, `(?s)` is not legal and
`[\\s\\S]` is.
"""

from tokenizers import Regex, normalizers, pre_tokenizers

from .special_tokens import BREAKER

PATTERN = (
    r"'(?:[sdmtSDMT]|ll|ve|re|LL|VE|RE)(?!\p{L})"  # English contractions
    r"|[^\r\n\p{L}\p{N}]?\p{L}[\p{L}\p{M}]*"  # a word, with the space, bracket or underscore before it
    r"|\p{N}{1,3}"  # digits
    r"| ?[^\s\p{L}\p{N}]+(?:[\r\n]+[ \t]*)?"  # punctuation, with the line break and indentation after it
    r"|\s*[\r\n]+[ \t]*"  # line breaks and the indentation after them
    r"|\s+(?!\S)"  # white space, its last character left to the word that follows
    r"|\s+"
)


def split_words() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")


def split_bytes(longest_word: int | None = None) -> pre_tokenizers.PreTokenizer:
    """The cuts of `PATTERN`, and of words longer than given; then each byte as one of 256 characters, as in GPT-2."""
    steps = [split_words(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    if longest_word is not None:
        steps.insert(1, pre_tokenizers.Split(Regex(rf"[\s\S]{{1,{longest_word}}}"), behavior="isolated"))
    return pre_tokenizers.Sequence(steps)


def split_characters() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")


def remove_breakers() -> normalizers.Normalizer:
    """Takes out one breaker after each `<`; special tokens have been recognised before this runs.

    Only the breaker is replaced, so that `<` keeps its offset, from which transformers computes assistant masks.
    """
    return normalizers.Replace(Regex(f"(?<=<){BREAKER}"), "")
