"""The tables that the alignment commands train on, in trl's conversational formats.

    stdlib, stdlib:400     questions about the standard library, about all objects or as many; nothing is downloaded
    tools, tools:400       such questions, and sums, answered by calls of tools; for `sft_dataset` alone
    a path                 a file, a directory or a glob of .jsonl .json .parquet, also compressed
    anything else          the id of a dataset on the Hub, `name` or `name:configuration`

A source without a validation or a test split gives five per cent of its training rows to each, those with the same
first question together, by a hash that neither seed nor order changes.
"""

from collections.abc import Callable, Iterable, Iterator

import datasets

from ..data.corpus import STDLIB
from ..options.base import UserError, one_line
from .checks import checked, first_question
from .conversations import assistant, conversations
from .drawing import draw
from .preferences import KINDS, pairs, preference
from .questions import SPLITS, Question, questions
from .rows import Row, open_tables

Check = Callable[[dict, str], list[dict]]

TOOLS = "tools"
HELD_OUT_SHARE = 0.05
# Of the invented names, how many the demonstrations answer with an abstention: to abstain is what preferences teach.
SFT_INVENTED_SHARE = 0.15


def sft_dataset(
    source: str = STDLIB,
    split: str = "train",
    seed: int = 0,
    limit: int | None = None,
    invented_share: float = SFT_INVENTED_SHARE,
) -> datasets.Dataset:
    """`messages` that end with the assistant; of files that have `prompt` and `completion`, these two.

    Args:
        source: see the module.
        split: train, validation or test; of `stdlib` also rephrased.
        seed: of the order and the styles of `stdlib`; files keep their order.
        limit: the first so many rows.
        invented_share: of the invented names of `stdlib`, those that are asked for.

    Raises:
        UserError: in one line, a source, a split, a row or a field that is wrong.
    """
    if (size := size_of(source, TOOLS)) is not None:
        from .tool_conversations import tool_conversations  # which needs a search engine

        return _table(tool_conversations(split, seed, size or None, invented_share), source, split, limit)
    if (size := size_of(source)) is None:
        return _from_tables(source, split, "sft", limit)
    asked = questions(split, seed, size or None, invented_share)
    rows = (
        {"messages": [*prompt, assistant(question.answer)], **_about(question, style)}
        for question, style, prompt in conversations(asked, split, seed)
    )
    return _table(rows, source, split, limit)


def preference_dataset(
    source: str = STDLIB,
    split: str = "train",
    seed: int = 0,
    limit: int | None = None,
    kinds: tuple[str, ...] = KINDS,
) -> datasets.Dataset:
    """`prompt`, `chosen`, `rejected`; of `stdlib` also `kind`, one of `kinds`. Arguments as of `sft_dataset`."""
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"kinds={sorted(unknown)}; use {', '.join(KINDS)}")
    if (size := size_of(source)) is None:
        return _from_tables(source, split, "preference", limit)
    asked = conversations(questions(split, seed, size or None), split, seed)
    rows = (
        preference(prompt, pair) | {"name": question.name, "style": style}
        for question, style, prompt in asked
        for pair in pairs(question, seed)
        if pair.kind in kinds
    )
    return _table(rows, source, split, limit)


def prompt_dataset(
    source: str = STDLIB, split: str = "train", seed: int = 0, limit: int | None = None
) -> datasets.Dataset:
    """`prompt`, and of `stdlib` the `reference` and `is_real` that the judge reads. Arguments as of `sft_dataset`."""
    if (size := size_of(source)) is None:
        return _from_tables(source, split, "prompt", limit)
    rows = (
        {"prompt": prompt, "reference": question.answer, "is_real": question.is_real, **_about(question, style)}
        for question, style, prompt in conversations(questions(split, seed, size or None), split, seed)
    )
    return _table(rows, source, split, limit)


def unpaired_dataset(
    source: str = STDLIB,
    split: str = "train",
    seed: int = 0,
    limit: int | None = None,
    kinds: tuple[str, ...] = KINDS,
) -> datasets.Dataset:
    """`prompt`, `completion`, `label`: a good and a bad row for each preference. Arguments as of `sft_dataset`."""
    if size_of(source) is None:
        return _from_tables(source, split, "unpaired", limit)
    paired = preference_dataset(source, split, seed, limit and (limit + 1) // 2, kinds)
    rows = (row for pair in paired.to_list() for row in checked(pair, "unpaired", source))
    return _table(rows, source, split, limit)


def _about(question: Question, style: str) -> dict:
    return {"name": question.name, "kind": question.kind, "style": style}


def size_of(source: str, offline: str = STDLIB) -> int | None:
    """How many objects `stdlib:N` asks for, 0 for all of them; None for another source."""
    name, colon, size = source.partition(":")
    if name != offline:
        return None
    if colon and not (size.isdecimal() and int(size)):
        raise UserError(f"--dataset {source}: after {offline}: comes the number of objects, as in {offline}:400")
    return int(size or 0)


def _from_tables(source: str, split: str, kind: str, limit: int | None) -> datasets.Dataset:
    rows = rows_of(source, split, lambda row, where: checked(row, kind, where), first_question)
    return _table(rows, source, split, limit)


def rows_of(source: str, split: str, check: Check, key: Callable[[dict], str]) -> Iterable[dict]:
    """The rows of a split of files or of a dataset on the Hub.

    Args:
        check: (row, where it stands) -> what it gives, or a `UserError`.
        key: rows that it makes equal stay on one side, where splits are taken from the training rows.

    Raises:
        UserError: a source or a split that there is not.
    """
    if split not in SPLITS[:3]:
        raise UserError(f"--dataset {source}: has no split {split!r}; use {', '.join(SPLITS[:3])}")
    tables = open_tables(source)
    if split in tables and split != "train":
        return _checked(tables[split](), check)
    if "train" not in tables:
        raise UserError(f"--dataset {source}: its splits are {', '.join(tables)}; {split} needs a train split")
    missing = [name for name in ("validation", "test") if name not in tables]
    return _divided(list(_checked(tables["train"](), check)), missing, split, key)


def _checked(rows: Iterable[Row], check: Check) -> Iterator[dict]:
    return (row for where, values in rows for row in check(values, where))


def _divided(rows: list[dict], missing: list[str], split: str, key: Callable[[dict], str]) -> list[dict]:
    """The rows of the split, when those that are `missing` are taken from training."""
    sides = dict.fromkeys(map(key, rows), "train")
    draws = sorted((draw("held out", question), question) for question in sides)
    for i, name in enumerate(missing):
        begin, end = i * HELD_OUT_SHARE, (i + 1) * HELD_OUT_SHARE
        left = [(position, question) for position, question in draws if sides[question] == "train"]
        inside = [question for position, question in left if begin <= position < end]
        # Few rows: one each if the draw gave none, and something is always left to train on.
        for question in (inside or [question for _, question in left[-1:]])[: len(left) - 1]:
            sides[question] = name
    return [row for row in rows if sides[key(row)] == split]


def no_rows(source: str, split: str) -> UserError:
    return UserError(f"--dataset {source}: no row in its {split} split; give more rows or another split")


def _table(rows: Iterable[dict], source: str, split: str, limit: int | None) -> datasets.Dataset:
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}; it must be above 0, or None for every row")
    kept = []
    for row in rows:
        kept.append(row)
        if len(kept) == limit:
            break
    if not kept:
        raise no_rows(source, split)
    columns = dict.fromkeys(name for row in kept for name in row)
    # Mixed types stay as they are: a tool call's arguments do not get those of all others, empty.
    try:
        return datasets.Dataset.from_dict({c: [r.get(c) for r in kept] for c in columns}, on_mixed_types="use_json")
    except (ValueError, TypeError) as error:  # pyarrow's are of these
        raise UserError(f"--dataset {source}: the rows do not make one table ({one_line(error, 200)})") from error
