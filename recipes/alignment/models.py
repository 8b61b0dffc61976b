"""The model that is aligned and its tokenizer: any causal language model, or one with a score for a head.

Two things are put right on the way in. Padding gets a token of its own where it is none, or that which ends a turn:
labels on padding are left out of the loss, and a model for which both are one never learns to stop. A base model
without a chat template learns ours (`add_chat_tokens`), where the recipe is one that teaches it to chat.
"""

from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase, set_seed

from ...hub.code import check_before_loading
from ...hub.opening import load_whole, opening
from ...tokenization.growing import add_chat_tokens, grow_embeddings
from ...tokenization.special_tokens import PAD
from ...tokenization.vocabulary import check_fits
from ..options.alignment import AlignmentOptions
from ..options.base import UserError
from ..training.setup import load_model, load_tokenizer

LONGEST_BY_DEFAULT = 2048


def open_policy(options: AlignmentOptions, teach_chat: bool = False, **kwargs):
    """(model, tokenizer) of a model that writes; `kwargs` go to `from_pretrained`.

    Raises:
        UserError: it cannot be opened, the two do not fit together, or there is no chat template and none may be added.
    """
    model = load_model(options.model, **loading(options), **kwargs)
    tokenizer = open_tokenizer(options)
    if not tokenizer.chat_template and (not teach_chat or options.use_peft):
        fix = "leave --use_peft out, and it learns one" if teach_chat else "train it with rhapsode sft first"
        raise UserError(f"tokenizer {tokenizer.name_or_path}: it has no chat_template; {fix}, or name --tokenizer")
    if not tokenizer.chat_template:
        add_chat_tokens(tokenizer, model)
    _fit(tokenizer, model, options)
    return model, tokenizer


def open_scorer(options: AlignmentOptions, chats: bool = True, **kwargs):
    """(model, tokenizer) of a reward model; the head is new, from the seed, where `--model` has none.

    `chats` says that it reads conversations; `kwargs` go to `from_pretrained`.
    """
    set_seed(options.seed)
    settings = {"dtype": "float32", "num_labels": 1, **loading(options), **kwargs}
    with opening(f"--model {options.model}", UserError):
        settings |= check_before_loading(options.model, options.trust_remote_code)
        model = load_whole(AutoModelForSequenceClassification, options.model, new_head=True, **settings)
    tokenizer = open_tokenizer(options)
    if chats and not tokenizer.chat_template:
        raise UserError(
            f"tokenizer {tokenizer.name_or_path}: it has no chat_template; train it with rhapsode sft first"
        )
    _fit(tokenizer, model, options)
    return model, tokenizer


def open_tokenizer(options: AlignmentOptions) -> PreTrainedTokenizerBase:
    return load_tokenizer(options.tokenizer or options.model, trust_remote_code=options.trust_remote_code)


def row_length(options: AlignmentOptions, model) -> int:
    """Tokens of a row at most."""
    longest = getattr(model.config, "max_position_embeddings", None)
    if options.max_length and longest and options.max_length > longest:
        raise UserError(f"--max_length {options.max_length} is longer than the model's {longest} positions")
    return options.max_length or min(longest or LONGEST_BY_DEFAULT, LONGEST_BY_DEFAULT)


def loading(options: AlignmentOptions) -> dict:
    attention = options.attn_implementation
    settings = {"trust_remote_code": options.trust_remote_code, "use_safetensors": True}
    return settings | ({"attn_implementation": attention} if attention else {})


def _fit(tokenizer: PreTrainedTokenizerBase, model, options: AlignmentOptions) -> None:
    """Padding of its own, ids that have an embedding, and one end of a turn in tokenizer and model."""
    if tokenizer.eos_token is None:
        raise UserError(f"tokenizer {tokenizer.name_or_path}: it has no eos_token, so no answer could end; set one")
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        if options.use_peft and not options.merge_adapter:
            raise UserError("the tokenizer lacks a pad_token of its own, and an adapter alone cannot add one; merge it")
        tokenizer.add_special_tokens({"pad_token": PAD})
        grow_embeddings(model, len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    try:
        check_fits(tokenizer, model.config)
    except ValueError as error:
        raise UserError(str(error)) from error
