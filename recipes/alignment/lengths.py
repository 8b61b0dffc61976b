"""Rows that are too long are left out and counted: a row that is cut loses the end of the answer, and with it the EOS.

A model trained on answers without an end does not learn to end its own, and of two cut answers nobody knows which was
the better one.
"""

from datasets import Dataset
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ...tokenization.encoding import encode_conversation
from ..options.base import UserError, one_line

ANSWERS = ("completion", "chosen", "rejected")


def leave_out_long(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, limit: int, what: str) -> tuple[Dataset, int]:
    """(the rows of at most `limit` tokens, the number of the others).

    Raises:
        UserError: none is short enough, or the chat template refuses a row.
    """
    lengths = [_length(tokenizer, row, f"{what}, row {number}") for number, row in enumerate(dataset, 1)]
    fitting = [i for i, length in enumerate(lengths) if length <= limit]
    if not fitting:
        shortest = f"the shortest of the {len(lengths)} rows has {min(lengths)} tokens"
        raise UserError(f"{what}: {shortest}, and a row may have {limit}; raise --max_length")
    return (dataset.select(fitting) if len(fitting) < len(lengths) else dataset), len(lengths) - len(fitting)


def _length(tokenizer: PreTrainedTokenizerBase, row: dict, where: str) -> int:
    """Tokens of a row of one of trl's conversational formats; of a pair, those of the longer one.

    Of a prompt alone, those up to where the answer begins.
    """
    answers = [row["prompt"] + row[key] for key in ANSWERS if row.get(key)] if row.get("prompt") else [row["messages"]]
    try:
        if not answers:
            return len(encode_conversation(tokenizer, row["prompt"], add_generation_prompt=True)["input_ids"])
        return max(len(encode_conversation(tokenizer, a, tools=row.get("tools"))["input_ids"]) for a in answers)
    except TemplateError as error:
        raise UserError(f"{where}: the chat template refuses it: {one_line(error)}") from error
