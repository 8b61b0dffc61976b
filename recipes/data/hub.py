"""Datasets on the Hub, streamed: named `name` or `name:configuration`.

A dataset's own validation split validates. Without one, its train split is divided row by row, as `split_of` says.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..options.base import UserError, one_line
from .readers import Named, text_of


def read_hub(source: str, split: str, text_column: str, split_of: Callable[[str], str]) -> Iterator[Named]:
    """(name, text) of the rows of `split`: `train`, `validation` or `all`.

    Raises:
        UserError: no such dataset, a column that is missing or holds no text, a connection that breaks off.
    """
    number = 0
    with hub_errors(source, lambda: number):
        streams, own_split = open_hub(source, split)
        for stream in streams:
            for row in stream:
                number += 1
                text = text_of(row, text_column, f"{source}, row {number}")
                if own_split or split_of(text) == split:
                    yield f"{source}#{number}", text


def open_hub(source: str, split: str):
    """(the streamed splits that hold `split`, whether nothing else is in them)."""
    import datasets

    name, _, configuration = source.partition(":")
    available = datasets.get_dataset_split_names(name, configuration or None)
    own_split = split == "all" or "validation" in available
    chosen = available if split == "all" else [split if own_split else "train"]
    return [datasets.load_dataset(name, configuration or None, split=s, streaming=True) for s in chosen], own_split


def revision(source: str) -> str:
    """The commit that the dataset is at."""
    import huggingface_hub

    with hub_errors(source, lambda: 0):
        return huggingface_hub.HfApi().dataset_info(source.partition(":")[0]).sha


@contextmanager
def hub_errors(source: str, rows_read: Callable[[], int]):
    """One line for whatever the library raises."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the library has dozens of kinds, none of them a subclass of another
        number = rows_read()
        what = f"broke off after row {number}" if number else "neither a path nor a dataset that can be opened"
        raise UserError(f"--dataset {source}: {what} ({type(error).__name__}: {one_line(error, 300)})") from error
