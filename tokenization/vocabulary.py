"""Whether a tokenizer and a model fit together."""

from transformers import PreTrainedTokenizerBase


def token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    """The tokenizer's ids under the names that configuration and generation configuration have for them."""
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, config) -> None:
    """Raises a ValueError where an id of the tokenizer has no embedding."""
    largest, rows = max(tokenizer.get_vocab().values(), default=0), config.get_text_config().vocab_size
    if largest >= rows:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} has ids up to {largest} and the model has vocab_size="
            f"{rows}; use the model's own tokenizer, or vocab_size={largest + 1} or more"
        )


def check_fits(tokenizer: PreTrainedTokenizerBase, config) -> None:
    """Raises a ValueError where an id of the tokenizer has no embedding, or where the two stop at different tokens."""
    check_vocabulary(tokenizer, config)
    stops = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if tokenizer.eos_token_id not in stops:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} ends a text with eos_token_id={tokenizer.eos_token_id} and the "
            f"model stops at eos_token_id={config.eos_token_id}; give the configuration the tokenizer's ids"
        )
