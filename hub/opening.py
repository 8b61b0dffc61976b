"""Opening a model that somebody names: what goes wrong is one line, and weights that do not fit are refused.

transformers draws what is missing at random, leaves out what is too much, and says so in a table that nobody reads.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .tensors import BUFFERS

HEADS = re.compile(r"(score|classifier|qa_outputs|lm_head|embed_out|output_projection)\.")


@contextmanager
def opening(what: str, kind: type[Exception] = ValueError) -> Iterator[None]:
    """Whatever is raised within, as a `kind` of one line: files that others have written may hold anything.

    What transformers logs on the way is shown at the end, unless something is raised.
    """
    try:
        with _held_back():
            yield
    except ImportError:  # a package that is not installed
        raise
    except Exception as error:
        reason = " ".join((str(error) or type(error).__name__).split())[:300]
        raise kind(f"{what}: cannot be opened ({reason})") from error


def load_whole(auto_class, source, new_head: bool = False, check: Callable = lambda model: None, **kwargs):
    """`auto_class.from_pretrained`, and every weight of the model is one of the checkpoint.

    Args:
        new_head: what comes after the backbone may be another one, and be made anew.
        check: raises what is to be said of the model first.

    Raises:
        ValueError: weights are missing, left over, or of another shape than the configuration says.
    """
    with without_report():
        model, found = auto_class.from_pretrained(
            source, output_loading_info=True, **{**kwargs, "ignore_mismatched_sizes": True}
        )
    check(model)
    if kwargs.get("quantization_config") is None and getattr(model.config, "quantization_config", None) is None:
        check_whole(found, new_head)
    return model


def check_whole(found: dict, new_head: bool = False) -> None:
    """`found` is what `from_pretrained` gives beside the model."""
    for name, there, here in sorted(found["mismatched_keys"]):
        if not (new_head and HEADS.match(name)):
            raise ValueError(
                f"{name} has shape {list(there)} in the weights and {list(here)} by config.json; give the two that "
                "belong together"
            )
    for problem, names in (("lack", found["missing_keys"]), ("have, and config.json lacks,", found["unexpected_keys"])):
        names = sorted(n for n in names if not BUFFERS.search(f".{n}") and not (new_head and HEADS.match(n)))
        if names:
            more = f" and {len(names) - 2} more" if len(names) > 2 else ""
            raise ValueError(f"the weights {problem} {', '.join(names[:2])}{more}; give the whole checkpoint")


@contextmanager
def _held_back() -> Iterator[None]:
    """What transformers logs, until the end; nothing of it after an error."""
    handlers = logging.getLogger("transformers").handlers
    held = {handler: [] for handler in handlers}
    holds = {handler: lambda record, handler=handler: bool(held[handler].append(record)) for handler in handlers}
    for handler, hold in holds.items():
        handler.addFilter(hold)
    try:
        yield
    except BaseException:
        held.clear()
        raise
    finally:
        for handler, hold in holds.items():
            handler.removeFilter(hold)
        for handler, records in held.items():
            for record in records:
                handler.handle(record)


@contextmanager
def without_report() -> Iterator[None]:
    """We say it ourselves. A filter, since transformers does other things where the level of this logger is set."""
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_is_no_report)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_report)


def _is_no_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()
