"""Rows to classify: `text`, `label` and where there is one `text_pair`, and where each of them stands.

    stdlib, stdlib:400     is a sentence of the standard library's documentation about a function, a class or a method?
    a path                 a file, a directory or a glob of .jsonl .json .csv .parquet, also compressed
    anything else          the id of a dataset on the Hub, `name` or `name:configuration`

The first needs no download. Its answers lie in how a sentence begins, and not all of them do: of 322 held-out ones, 55%
are about methods, and logistic regression on words and pairs of words names 83% rightly.
"""

from collections.abc import Iterable
from itertools import islice

from ..alignment.datasets import no_rows, rows_of, size_of
from ..alignment.drawing import draw
from ..alignment.questions import objects_of
from ..options.base import UserError
from ..options.classify import ClassifyOptions

PAIR = "text_pair"  # the column of a second text that needs no naming


def read_rows(options: ClassifyOptions, split: str) -> list[dict]:
    """Rows with `text`, `text_pair` (None without), `label` as it is in the table, `where`.

    Raises:
        UserError: a source, a split, a column or a text that is wrong, in one line with file, row and field.
    """
    held_out = split != "train"
    source = (options.eval_dataset if held_out else None) or options.dataset
    limit = options.max_eval_samples if held_out else options.max_samples
    if (size := size_of(source)) is None:
        rows: Iterable[dict] = rows_of(source, split, lambda row, where: [_checked(row, where, options)], _key)
    else:
        items = sorted(objects_of(split, size or None), key=lambda item: draw("order", options.seed, item.name))
        found = ({"text": item.sentence, "label": item.kind} for item in items)
        rows = (_checked(row, f"{source}, row {number}", options) for number, row in enumerate(found, 1))
    rows = list(islice(rows, limit))
    if not rows:
        raise no_rows(source, split)
    return rows


def _key(row: dict) -> str:
    return f"{row['text']}\0{row['text_pair'] or ''}"


def _checked(row: dict, where: str, options: ClassifyOptions) -> dict:
    if not isinstance(row, dict):
        raise UserError(f"--dataset {where}: {type(row).__name__} and not an object with fields")
    pair = options.text_pair_column or (PAIR if row.get(PAIR) is not None else None)
    columns = {"text_column": options.text_column, "text_pair_column": pair, "label_column": options.label_column}
    for flag, column in columns.items():
        if column is not None and row.get(column) is None:
            problem = f"{column} is null" if column in row else f"no column {column!r}"
            raise UserError(f"--dataset {where}: {problem}; --{flag} takes one of {', '.join(map(str, row))}")
    texts = {"text": row[options.text_column], PAIR: row[pair] if pair else None}
    for column, text in zip((options.text_column, pair), texts.values(), strict=True):
        if column is not None and not (isinstance(text, str) and text.strip()):
            raise UserError(f"--dataset {where}: {column} is {text!r:.60}; it must be a text with something in it")
    return texts | {"label": row[options.label_column], "where": where}
