"""What the training loop reads: rows of tokens by their number, and the documents that validate."""

from collections.abc import Sequence
from itertools import islice
from math import isfinite
from typing import NamedTuple

from ..options.base import UserError
from .building import Cache
from .corpus import read_documents
from .layout import BestFitRows, ConcatenatedRows
from .mixture import ShuffledRows
from .shards import MappedDocuments, Shard
from .sources import open_source
from .streaming import StreamedRows, Windows
from .tokens import TokenStream, tokenize

STREAMED_VALIDATION = 500  # documents of each source that validate where reading all of them could take for ever


class Processes(NamedTuple):
    """This process among those that train together."""

    index: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        return self.index == 0


def open_rows(options, tokenizer, length: int, process: Processes) -> ShuffledRows | StreamedRows:
    """The training rows that `PretrainOptions` ask for, of `length` tokens.

    Raises:
        UserError: weights that do not fit, a source that cannot be read, too little text, no room for the shards.
    """
    sources, weights = drawn_sources(options.dataset, options.dataset_weights)
    # A tokenizer without a padding token: any id will do, as no label asks for it and no document sees it.
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    if options.streaming:
        if options.max_steps is None:
            raise UserError("--streaming has no epochs to count: say --max_steps")
        if len(sources) > 1 and not weights:
            raise UserError(
                "--streaming several datasets needs --dataset_weights: their sizes are not known beforehand"
            )
        return StreamedRows(
            [
                Windows(
                    open_source(
                        source,
                        options.text_column,
                        options.seed,
                        process.index,
                        process.count,
                        options.validation_share,
                    ),
                    tokenizer,
                    options.packing,
                    length,
                    pad_id,
                    seed=[options.seed, number, process.index],
                )
                for number, source in enumerate(sources)
            ],
            weights or [1],
            process.index,
            process.count,
        )
    cache = _open_cache(options, process)
    shards = [cache.shards(source, "train", options.text_column, tokenizer) for source in sources]
    groups = [[each] for each in shards] if weights else [shards]
    try:
        packed = [_pack(group, options.packing, cache, length, pad_id) for group in groups]
    except ValueError as error:
        raise UserError(f"--dataset {' '.join(sources)}: {error}") from error
    rows = ShuffledRows(packed, weights or [1], options.seed)
    if rows.statistics["tokens"] < length:  # best-fit packing would make one row of it, most of it padding
        raise UserError(
            f"--dataset {' '.join(sources)}: {rows.statistics['tokens']} training tokens, fewer than one sequence of "
            f"max_length={length}; give more text or a smaller --max_length"
        )
    return rows


def _open_cache(options, process: Processes) -> Cache:
    return Cache(options.data_cache, options.num_proc, process.is_main, options.validation_share)


def _pack(group: Sequence[list[Shard]], packing: str, cache: Cache, length: int, pad_id: int):
    """The rows of the sources of a group, which are as one."""
    streams = [shard for shards in group for shard in shards]
    if packing == "concatenate":
        return ConcatenatedRows(streams, length)
    plans = [plan for shards in group for plan in cache.plans(shards, length)]
    return BestFitRows(streams, plans, length, pad_id)


def drawn_sources(dataset: list[str], weights: list[float]) -> tuple[list[str], list[float]]:
    """The sources that have a weight above 0, and their weights; all of them and nothing where no weights are given."""
    if not weights:
        return dataset, []
    given = f"--dataset_weights {' '.join(f'{weight:g}' for weight in weights)}"
    if len(weights) != len(dataset):
        raise UserError(f"{given}: {len(weights)} for {len(dataset)} of --dataset; give one for each")
    if not all(isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise UserError(f"{given}: none may be negative or infinite, and one must be above 0")
    drawn = [i for i, weight in enumerate(weights) if weight]
    return [dataset[i] for i in drawn], [weights[i] for i in drawn]


def open_validation(options, tokenizer, process: Processes) -> TokenStream | MappedDocuments:
    """The held-out documents of every source; of streamed ones the first `STREAMED_VALIDATION`."""
    if options.streaming:
        documents = (
            document
            for source in options.dataset
            for document in islice(
                read_documents([source], "validation", options.text_column, options.validation_share),
                STREAMED_VALIDATION,
            )
        )
        return tokenize(documents, tokenizer, "tokens of validation", process.is_main)
    cache = _open_cache(options, process)
    shards = [cache.shards(source, "validation", options.text_column, tokenizer) for source in options.dataset]
    return MappedDocuments([shard for each in shards for shard in each])
