"""From the words of the command line to a baseline: `build_baseline("lstm", {"hidden_size": 256}, tokenizer)`."""

from difflib import get_close_matches

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..options.base import UserError, one_line
from .feedforward import FeedForwardForCausalLM
from .ngram import NGramForCausalLM
from .recurrent import LSTMForCausalLM, RNNForCausalLM

BASELINES: dict[str, type[PreTrainedModel]] = {
    "ngram": NGramForCausalLM,
    "feedforward": FeedForwardForCausalLM,
    "rnn": RNNForCausalLM,
    "lstm": LSTMForCausalLM,
}


def build_baseline(
    architecture: str, overrides: dict, tokenizer: PreTrainedTokenizerBase, length: int | None = None
) -> PreTrainedModel:
    """A new model for the tokenizer's vocabulary; one with a `fit` is fitted, the others are trained.

    Args:
        architecture: a name in `BASELINES`.
        overrides: fields of its configuration.
        length: for the signature of all architectures; a baseline has no longest sequence.

    Raises:
        UserError: an unknown architecture or field, with the nearest one, or a value that does not fit.
    """
    if architecture not in BASELINES:
        raise UserError(f"--architecture {architecture}: {_nearest(architecture, BASELINES)}")
    model_class = BASELINES[architecture]
    config_class = model_class.config_class
    for name in overrides:
        if name not in config_class.__dataclass_fields__:
            raise UserError(
                f"--config_overrides {name}: {architecture} has no such field; "
                f"{_nearest(name, config_class.__annotations__)}"
            )
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    try:
        return model_class(config_class(**{"vocab_size": len(tokenizer), **special, **overrides}))
    except Exception as error:  # ValueError, and the strict dataclass's own kinds for a value of the wrong type
        raise UserError(f"--architecture {architecture} with {overrides}: {one_line(error)}") from error


def _nearest(name: str, known) -> str:
    nearest = get_close_matches(name, list(known), n=1)
    return f"did you mean {nearest[0]!r}?" if nearest else f"use one of {', '.join(sorted(known))}"
