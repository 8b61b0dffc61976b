"""What stands before the first step: the run directory, the tokenizer, the model."""

import shutil
from pathlib import Path

import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from ...modeling import RhapsodeConfig, RhapsodeForCausalLM
from ...tokenization.training import train_tokenizer
from ...tokenization.vocabulary import check_fits
from ..data.corpus import read_documents
from ..options.base import RESOLVED, UserError, one_line
from ..options.pretrain import PretrainOptions

CHECKPOINTS = "checkpoints"
# What a resumed run may have otherwise than the run it continues: nothing here changes a weight.
FREE_ON_RESUME = {
    *("output_dir", "overwrite_output_dir", "resume", "max_seconds", "logging_steps", "eval_steps", "max_eval_tokens"),
    *("sample_tokens", "save_steps", "save_total_limit", "tokenizer"),
}


def check_directory(options: PretrainOptions) -> Path:
    """The run directory; nothing is written yet.

    Raises:
        UserError: it holds something else, or a run that is neither to be resumed nor to be overwritten, or a run with
            other options than the one that is to be resumed.
    """
    directory = Path(options.output_dir)
    if directory.exists() and not directory.is_dir():
        raise UserError(f"--output_dir {directory} is a file; name a directory")
    is_run = (directory / RESOLVED).exists()
    if directory.exists() and any(directory.iterdir()) and not is_run:
        raise UserError(f"--output_dir {directory} holds files that are not a run's; name another directory")
    if is_run and options.resume:
        _check_same_options(directory, options)
    elif is_run and not options.overwrite_output_dir:
        raise UserError(
            f"--output_dir {directory} holds a run; --resume goes on with it, --overwrite_output_dir deletes it"
        )
    return directory


def make_directory(options: PretrainOptions) -> None:
    """Make the directory that `check_directory` approved of, without what is to be overwritten in it."""
    directory = Path(options.output_dir)
    try:
        if not options.resume and directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {directory}: {error.strerror}") from error


def _check_same_options(directory: Path, options: PretrainOptions) -> None:
    try:
        before = dict(yaml.safe_load((directory / RESOLVED).read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise UserError(f"{directory / RESOLVED} is damaged; write the run's options there again to resume") from error
    for name, value in vars(options).items():
        if name not in FREE_ON_RESUME and before.get(name) != value:
            raise UserError(
                f"--resume with {name}={value!r}, but the run in {directory} has {name}={before.get(name)!r}; "
                f"give the same, or start a new run"
            )


def open_tokenizer(options: PretrainOptions, directory: Path, show_progress: bool) -> PreTrainedTokenizerBase:
    """The tokenizer that is named, else the model's, else one trained on the data and kept in the run directory."""
    if options.tokenizer or options.model:
        return load_tokenizer(options.tokenizer or options.model)
    if options.resume and (directory / "tokenizer.json").exists():
        return load_tokenizer(str(directory))
    texts = (document.text for document in read_documents(options.dataset, "train", options.text_column))
    try:
        return train_tokenizer(texts, vocab_size=options.vocab_size, show_progress=show_progress)
    except ValueError as error:
        raise UserError(f"tokenizer: {error}") from error


def load_tokenizer(source: str, **kwargs) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(source, **kwargs)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"tokenizer {source}: cannot be opened ({one_line(error, 300)})") from error


def load_model(source: str, **kwargs):
    """Any causal language model, in float32 unless `kwargs` say otherwise."""
    try:
        return AutoModelForCausalLM.from_pretrained(source, **{"dtype": "float32", **kwargs})
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"--model {source}: cannot be opened ({one_line(error, 300)})") from error


def open_model(options: PretrainOptions, tokenizer: PreTrainedTokenizerBase):
    """A new model of the preset, or the one to go on from; its vocabulary holds the tokenizer's."""
    model = load_model(options.model) if options.model else RhapsodeForCausalLM(new_config(options, tokenizer))
    longest = getattr(model.config, "max_position_embeddings", None)
    if options.max_length and longest and options.max_length > longest:
        raise UserError(f"--max_length {options.max_length} is longer than the model's {longest} positions")
    model.config._attn_implementation = options.attn_implementation
    for ids in (model.config, model.generation_config):
        ids.pad_token_id, ids.bos_token_id = tokenizer.pad_token_id, tokenizer.bos_token_id
        ids.eos_token_id = tokenizer.eos_token_id
    try:
        check_fits(tokenizer, model.config)
    except ValueError as error:
        raise UserError(str(error)) from error
    return model


def new_config(options: PretrainOptions, tokenizer: PreTrainedTokenizerBase) -> RhapsodeConfig:
    overrides = {"vocab_size": len(tokenizer)}
    if options.max_length:
        overrides["max_position_embeddings"] = options.max_length
    for item in options.config_overrides:
        key, separator, value = item.partition("=")
        if not separator:
            raise UserError(f"--config_overrides {item!r} is not of the form name=value")
        overrides[key] = yaml.safe_load(value)
    try:
        return RhapsodeConfig.from_preset(options.preset, **overrides)
    except Exception as error:  # ValueError, and the strict dataclass's own kinds for a value of the wrong type
        raise UserError(f"--preset {options.preset} with {overrides}: {error}") from error
