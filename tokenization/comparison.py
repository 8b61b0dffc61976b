"""Measuring tokenizers on text that they were not trained on.

Tokens per byte say how long the sequences get that a model has to read; they compare vocabularies of one size only.
A tokenizer with an unknown token looks better than it is, because it does not have to spell what it leaves out: the
share of the bytes that it lost stands beside.
"""

import time
from pathlib import Path

from .encoding import encode_texts

REPETITIONS = 3  # speeds are the best of so many

COLUMNS = (
    ("algorithm", "algorithm", "{}"),
    ("vocab_size", "entries", "{:,}"),
    ("tokens_per_byte", "tokens/byte", "{:.4f}"),
    ("tokens_per_word", "tokens/word", "{:.3f}"),
    ("unknown_rate", "unknown tokens", "{:.2%}"),
    ("unknown_bytes", "unknown bytes", "{:.2%}"),
    ("vocabulary_use", "entries used", "{:.1%}"),
    ("encode_mb_per_second", "encode MB/s", "{:.2f}"),
    ("decode_mb_per_second", "decode MB/s", "{:.2f}"),
    ("train_seconds", "training s", "{:.1f}"),
    ("bits_per_byte", "bits/byte", "{:.3f}"),
)


def measure(tokenizer, texts: list[str]) -> dict[str, float]:
    """The figures of one tokenizer.

    tokens_per_byte, tokens_per_word: words are what white space separates.
    unknown_rate, unknown_bytes: share of the tokens that are unknown, and of the bytes behind them.
    vocabulary_use: share of the entries, special ones aside, that occur.
    encode_mb_per_second, decode_mb_per_second: 10^6 bytes of text, all cores.
    """
    num_bytes = sum(len(text.encode()) for text in texts)
    encode_seconds, ids = _best(lambda: encode_texts(tokenizer, texts))
    decode_seconds, _ = _best(lambda: tokenizer.backend_tokenizer.decode_batch(ids, skip_special_tokens=False))
    num_tokens = sum(map(len, ids))
    used = set().union(*ids)
    unknown = sum(document.count(tokenizer.unk_token_id) for document in ids)
    return {
        "bytes": num_bytes,
        "tokens": num_tokens,
        "tokens_per_byte": num_tokens / num_bytes,
        "tokens_per_word": num_tokens / sum(len(text.split()) for text in texts),
        "unknown_rate": unknown / num_tokens,
        "unknown_bytes": _unknown_bytes(tokenizer, texts) / num_bytes,
        "vocabulary_use": len(used - set(tokenizer.all_special_ids))
        / (len(tokenizer) - len(tokenizer.all_special_ids)),
        "encode_mb_per_second": num_bytes / 1e6 / encode_seconds,
        "decode_mb_per_second": num_bytes / 1e6 / decode_seconds,
    }


def _best(call):
    seconds = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def _unknown_bytes(tokenizer, texts: list[str]) -> int:
    if tokenizer.unk_token_id is None:
        return 0
    total = 0
    for text in texts:
        encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
        pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        total += sum(len(text[begin:end].encode()) for i, (begin, end) in pairs if i == tokenizer.unk_token_id)
    return total


def format_comparison(rows: list[dict]) -> str:
    """A Markdown table."""
    columns = [column for column in COLUMNS if column[0] in rows[0]]
    cells = [[title for _, title, _ in columns], *([form.format(row[key]) for key, _, form in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def draw_comparison(rows: list[dict], path: Path) -> None:
    """A row of bar charts, one bar for each tokenizer."""
    from matplotlib.figure import Figure

    keys = ("tokens_per_byte", "unknown_bytes", "vocabulary_use", "encode_mb_per_second", "bits_per_byte")
    shown = [column for column in COLUMNS if column[0] in keys and column[0] in rows[0]]
    figure = Figure(figsize=(3 * len(shown), 3), layout="constrained")
    axes = figure.subplots(1, len(shown))
    for axis, (key, title, form) in zip(axes, shown, strict=True):
        bars = axis.bar([row["algorithm"] for row in rows], [row[key] for row in rows], color="0.55")
        axis.bar_label(bars, [form.format(row[key]) for row in rows], fontsize=7)
        axis.set_title(title, fontsize=10)
        axis.tick_params(axis="x", rotation=45, labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
