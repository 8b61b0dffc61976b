"""Training a tokenizer: five algorithms, one set of special tokens, one format.

    bpe        byte pair encoding: merge the most frequent pair, again and again (Sennrich et al. 2016,
               arXiv:1508.07909), on bytes (Radford et al. 2019)
    wordpiece  the longest known piece first (Schuster and Nakajima 2012; Wu et al. 2016, arXiv:1609.08144)
    unigram    the likeliest segmentation under a unigram model of pieces (Kudo 2018, arXiv:1804.10959)
    word       each whole word one token, rare ones unknown
    char       each character one token, rare ones unknown

The first three work on bytes after the same cuts, so that they spell every text and differ in the algorithm alone; the
original WordPiece and Unigram work on characters and know an unknown token. The last two show why sub-words won.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

from tokenizers import AddedToken, Tokenizer, models, processors
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from .algorithms import ALGORITHMS, Algorithm
from .chat_template import RESPONSE_TEMPLATE, load_template
from .special_tokens import BOS, EOS, PAD, SPECIAL_TOKENS, UNK
from .splitting import remove_breakers
from .surrogates import mend

CHUNK = 1 << 20  # characters


def train_tokenizer(
    texts: Iterable[str], algorithm: str = "bpe", vocab_size: int = 8192, show_progress: bool = True
) -> PreTrainedTokenizerFast:
    """Learn a vocabulary from `texts`, read once and in order; memory grows with the distinct words, not with the text.

    The result has our special tokens and chat template, puts `<|bos|>` before what it is called on, and is opened by
    `AutoTokenizer.from_pretrained` wherever its `save_pretrained` wrote it. It is smaller than `vocab_size` where the
    text has too few different words.

    Args:
        texts: documents.
        algorithm: bpe, wordpiece, unigram, word or char.
        vocab_size: entries, special tokens included.
        show_progress: bars on stderr.

    Raises:
        ValueError: an unknown algorithm, a vocabulary without room for the alphabet, no text.
    """
    row = check_vocabulary(algorithm, vocab_size)
    specials = [*SPECIAL_TOKENS, UNK] if row.needs_unk else [*SPECIAL_TOKENS]
    learner = Tokenizer(row.model())
    learner.pre_tokenizer = row.pre_tokenizer()
    trainer = row.trainer(vocab_size=vocab_size, special_tokens=specials, show_progress=show_progress)
    learner.train_from_iterator(_watch(_chunks(texts), show_progress), trainer)
    return _assemble(row, specials, row.finish(learner, vocab_size))


def check_vocabulary(algorithm: str, vocab_size: int) -> Algorithm:
    """The algorithm's row, if `vocab_size` has room for its alphabet and the special tokens."""
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm={algorithm!r}; use one of {', '.join(ALGORITHMS)}")
    row = ALGORITHMS[algorithm]
    specials = len(SPECIAL_TOKENS) + row.needs_unk
    least = len(row.alphabet) + specials + 1
    if vocab_size < least:
        raise ValueError(
            f"vocab_size={vocab_size} is too small for {algorithm}, which needs {len(row.alphabet)} entries for the "
            f"alphabet, {specials} for special tokens and one to learn; use {least} or more"
        )
    return row


def _assemble(row: Algorithm, specials: list[str], model: models.Model) -> PreTrainedTokenizerFast:
    """What was learnt, the steps around it, our special tokens and chat template, in the class of transformers."""
    backend = Tokenizer(model)
    backend.normalizer, backend.pre_tokenizer, backend.decoder = remove_breakers(), row.pre_tokenizer(), row.decoder()
    # normalized=False: recognised in the text as given, before the normalizer takes the breakers out
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B:1",
        special_tokens=[(BOS, backend.token_to_id(BOS))],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK if row.needs_unk else None,
        extra_special_tokens=list(SPECIAL_TOKENS[3:]),
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
    tokenizer.chat_template = load_template()
    tokenizer.response_template = RESPONSE_TEMPLATE
    return tokenizer


def _watch(chunks: Iterator[str], show_progress: bool) -> Iterator[str]:
    """The chunks, under a bar that the library does not draw for a stream. An empty stream is an error at once."""
    first = next(chunks, None)
    if first is None:
        raise ValueError("the training text is empty; give at least one document with text in it")
    return _under_bar(chain([first], chunks), show_progress)


def _under_bar(chunks: Iterable[str], show_progress: bool) -> Iterator[str]:
    with tqdm(desc="reading", unit="char", unit_scale=True, disable=None if show_progress else True) as bar:
        for chunk in chunks:
            bar.update(len(chunk))
            yield chunk


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    """Cut documents of any length into pieces that fit in memory many times over, at the end of a line if possible."""
    for text in map(mend, texts):
        start = 0
        while len(text) - start > CHUNK:
            end = text.rfind("\n", start, start + CHUNK) + 1 or start + CHUNK
            yield text[start:end]
            start = end
        if start < len(text):
            yield text[start:]
