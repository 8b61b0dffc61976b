"""The five algorithms as rows of one table: how each cuts, learns and puts a text together again."""

import json
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from .special_tokens import SPECIAL_TOKENS, UNK
from .splitting import split_bytes, split_characters, split_words

BYTES = tuple(sorted(pre_tokenizers.ByteLevel.alphabet()))  # the 256 characters that stand for bytes
CONTINUATION = "\u2581"  # opens a piece that is not the first of its word; not among BYTES, so no text can spell it
INNER_BYTES = tuple(CONTINUATION + byte for byte in BYTES)
LONGEST_WORD = 64  # characters; WordPiece's time grows with the square of a word's length


class Algorithm(NamedTuple):
    model: Callable[[], models.Model]
    trainer: Callable[..., trainers.Trainer]
    pre_tokenizer: Callable[[], pre_tokenizers.PreTokenizer]
    decoder: Callable[[], decoders.Decoder]
    alphabet: tuple[str, ...] = ()  # entries without which some text could not be spelled
    needs_unk: bool = False
    finish: Callable[[Tokenizer, int], models.Model] = lambda learner, vocab_size: learner.model


def _wordpiece(vocab: dict[str, int] | None = None) -> models.Model:
    limit = 4 * LONGEST_WORD  # bytes
    return models.WordPiece(
        vocab or {}, unk_token=UNK, max_input_chars_per_word=limit, continuing_subword_prefix=CONTINUATION
    )


def _wordpiece_trainer(special_tokens: list[str], **kwargs) -> trainers.Trainer:
    """The library takes bytes inside a word as it meets them, in an order that varies, and not those it does not meet.

    Among the special tokens they all get an entry, always the same; `_finish_wordpiece` makes them plain entries again.
    """
    return trainers.WordPieceTrainer(
        special_tokens=[*special_tokens, *INNER_BYTES],
        initial_alphabet=BYTES,
        continuing_subword_prefix=CONTINUATION,
        min_frequency=2,
        **kwargs,
    )


def _finish_wordpiece(learner: Tokenizer, vocab_size: int) -> models.Model:
    return _wordpiece(learner.get_vocab())


def _wordpiece_decoder() -> decoders.Decoder:
    return decoders.Sequence([decoders.Replace(CONTINUATION, ""), decoders.ByteLevel()])


def _finish_unigram(learner: Tokenizer, vocab_size: int) -> models.Model:
    """Put the bytes that were not seen in the place of the unlikeliest pieces, and everything in a fixed order.

    In the library's hands the order varies: scores in their last bits, and bytes that it keeps for the alphabet's sake
    alone get the lowest score with 0.0001 between one and the next. Here the latter share the lowest.
    """
    pieces = [(piece, round(score, 6)) for piece, score in json.loads(learner.to_str())["model"]["vocab"]]
    specials, pieces = pieces[: len(SPECIAL_TOKENS)], pieces[len(SPECIAL_TOKENS) :]
    lowest = min(score for _, score in pieces)
    scores = dict.fromkeys(BYTES, lowest)
    scores |= {piece: score for piece, score in pieces if piece in scores and score > lowest + 1e-4 * len(BYTES)}
    learnt = sorted((-score, piece) for piece, score in pieces if piece not in scores)
    scores |= {piece: -cost for cost, piece in learnt[: vocab_size - len(specials) - len(BYTES)]}
    return models.Unigram(specials + sorted(scores.items(), key=lambda entry: (-entry[1], entry[0])))


ALGORITHMS = {
    "bpe": Algorithm(
        model=models.BPE,
        trainer=partial(trainers.BpeTrainer, initial_alphabet=BYTES, min_frequency=2),
        pre_tokenizer=split_bytes,
        decoder=decoders.ByteLevel,
        alphabet=BYTES,
    ),
    "wordpiece": Algorithm(
        model=_wordpiece,
        trainer=_wordpiece_trainer,
        pre_tokenizer=partial(split_bytes, LONGEST_WORD),
        decoder=_wordpiece_decoder,
        alphabet=BYTES + INNER_BYTES,
        finish=_finish_wordpiece,
    ),
    "unigram": Algorithm(
        model=models.Unigram,
        trainer=partial(trainers.UnigramTrainer, unk_token=None),
        pre_tokenizer=split_bytes,
        decoder=decoders.ByteLevel,
        alphabet=BYTES,
        finish=_finish_unigram,
    ),
    "word": Algorithm(
        model=partial(models.WordLevel, unk_token=UNK),
        trainer=trainers.WordLevelTrainer,
        pre_tokenizer=split_words,
        decoder=decoders.Fuse,
        needs_unk=True,
    ),
    "char": Algorithm(
        model=partial(models.WordLevel, unk_token=UNK),
        trainer=trainers.WordLevelTrainer,
        pre_tokenizer=split_characters,
        decoder=decoders.Fuse,
        needs_unk=True,
    ),
}
