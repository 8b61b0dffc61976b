"""What stands before the first step: the run directory, the tokenizer, the model."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import parse_flag_from_env, patch_environment
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from ...hub.code import check_before_loading
from ...hub.opening import load_whole, opening
from ...modeling import RhapsodeConfig, RhapsodeForCausalLM
from ...tokenization.training import train_tokenizer
from ...tokenization.vocabulary import check_fits, check_vocabulary
from ..baselines.build import build_baseline
from ..data.corpus import read_documents
from ..options.base import RESOLVED, UserError, one_line
from ..options.pretrain import PretrainOptions
from .attention import set_attention
from .checkpoint import read_state
from .compilation import compile_loss
from .liger import choose_liger
from .loss import NextTokenLoss
from .optimizers import build_optimizers
from .parallel import Parallel
from .partial import freeze
from .precision import Precision, choose_precision, convert_to_fp8
from .recompute import recompute_blocks
from .schedule import BatchSchedule
from .zero import check_wishes, spread

CHECKPOINTS = "checkpoints"
OTHER_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
# What a resumed run may have otherwise than the run it continues: nothing here changes a weight.
FREE_ON_RESUME = {
    *("max_seconds", "logging_steps", "eval_steps", "max_eval_tokens", "final_eval_tokens"),
    *("sample_tokens", "save_steps", "save_minutes", "save_total_limit", "metric_for_best_model", "milestone_steps"),
    *("tokenizer", "num_proc", "data_cache", "report_to", "run_name", "track_energy", "max_skipped_steps"),
    # The batch as a whole stays, see `check_shares`.
    *("num_processes", "accelerate_config", "per_device_train_batch_size", "gradient_accumulation_steps"),
}


def start_processes(options: PretrainOptions) -> tuple[Precision, Parallel]:
    """The number formats, and this process among those that a launcher has started."""
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")  # only Accelerator itself reads it
    # Accelerate has tensor parallelism and DeepSpeed on GPUs only; here they are `Parallel`'s.
    with patch_environment(ACCELERATE_USE_PARALLELISM_CONFIG="false", ACCELERATE_USE_DEEPSPEED="false"):
        precision = choose_precision(options, PartialState(cpu=on_cpu).device)
        AcceleratorState._reset_state()  # another run in this process may have had another precision
        accelerator = Accelerator(mixed_precision=precision.mixed_precision)
    count = accelerator.num_processes
    if options.num_processes is not None and options.num_processes != count:
        raise UserError(f"--num_processes {options.num_processes}, but the launcher has started {count}; leave it out")
    parallel = Parallel(accelerator)
    if parallel.strategy == "deepspeed":
        check_wishes(options)
    return precision, parallel


@contextmanager
def made_directory(options: PretrainOptions) -> Iterator[Path]:
    """Where to write what a run begins with; it becomes the directory that `check_output` approved of, at once."""
    directory = Path(options.output_dir)
    if options.resume and (directory / RESOLVED).exists():
        yield directory  # the same things once more
        return
    temporary = directory.absolute().with_name(f".unfinished-{directory.name}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        if directory.exists():
            shutil.rmtree(directory)
        temporary.rename(directory)
    except OSError as error:
        raise UserError(f"--output_dir {directory}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_shares(checkpoint: Path, batches: BatchSchedule, data_count: int) -> dict:
    """The state of a checkpoint that the run can go on from, maybe with another number of processes.

    The order of the data does not know of processes, but for streams: a step is the same rows as long as there are as
    many of them.

    Raises:
        UserError: other rows a step; it says which batch has them.
    """
    state = read_state(checkpoint)
    before = BatchSchedule(**state["batches"])
    rows, now = before.full * before.rows_per_pass, batches.full * batches.rows_per_pass
    if rows != now:
        raise UserError(
            f"--resume with {now} sequences a step ({data_count} processes), but the run in {checkpoint.parent.parent} "
            f"has {rows}; choose --per_device_train_batch_size x --gradient_accumulation_steps x processes = {rows}"
        )
    if before.warmup_steps and before != batches:
        raise UserError(
            f"--resume within --batch_warmup_steps {before.warmup_steps} needs the same number of processes and the "
            f"same batch: {before.full} forward passes of {before.rows_per_pass} sequences"
        )
    return state


def check_texts(checkpoint: Path, state: dict, rows, options: PretrainOptions) -> None:
    """
    Raises:
        UserError: the run has other rows than the checkpoint's, which the same numbers would count.
    """
    if state.get("texts", rows.identity()) != rows.identity():
        raise UserError(
            f"--resume: the texts of --dataset {' '.join(options.dataset)}, or the tokenizer, are not those that the "
            f"run in {checkpoint.parent.parent} has learned from; give the same, or start a new run"
        )


def open_tokenizer(options: PretrainOptions, directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that is named, else the model's, else one trained on the data and kept in the run directory."""
    if options.tokenizer or options.model:
        return load_tokenizer(options.tokenizer or options.model)
    if options.resume and (directory / "tokenizer.json").exists():
        return load_tokenizer(str(directory))
    documents = read_documents(options.dataset, "train", options.text_column, options.validation_share)
    texts = (document.text for document in documents)
    try:
        return train_tokenizer(texts, options.tokenizer_algorithm, options.vocab_size, show_progress=True)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"tokenizer: {error}") from error


def load_tokenizer(source: str, **kwargs) -> PreTrainedTokenizerBase:
    with opening(f"tokenizer {source}", UserError):
        trust, revision = kwargs.get("trust_remote_code", False), kwargs.get("revision")
        kwargs |= check_before_loading(source, trust, revision, weights=False)
        return AutoTokenizer.from_pretrained(source, **kwargs)


def refuse_other_heads(config) -> None:
    """
    Raises:
        ValueError: a checkpoint of a classifier or a reward model, whose head would be left out in silence.
    """
    for name in config.architectures or []:
        if name.endswith(OTHER_HEADS):
            raise ValueError(f"its weights are a {name}'s, which predicts no tokens")


def load_model(source: str, **kwargs):
    """Any causal language model, in float32 unless `kwargs` say otherwise; never from a pickle."""
    with opening(f"--model {source}", UserError):
        kwargs |= check_before_loading(source, kwargs.get("trust_remote_code", False), kwargs.get("revision"))
        settings = {"dtype": "float32", "use_safetensors": True, **kwargs}
        # After loading: an adapter's directory has no configuration, its base model's has.
        return load_whole(AutoModelForCausalLM, source, check=lambda m: refuse_other_heads(m.config), **settings)


def load_pair(source: str, **kwargs):
    """(model, tokenizer) of a directory or Hub id, which fit together; as `load_model`."""
    trust = {"trust_remote_code": kwargs.get("trust_remote_code", False)}
    model = load_model(source, **kwargs)  # first: of a configuration that is wrong it says more than the tokenizer
    tokenizer = load_tokenizer(source, **trust)
    try:
        check_vocabulary(tokenizer, model.config)
    except ValueError as error:
        raise UserError(f"--model {source}: {error}") from error
    return model, tokenizer


def open_model(options: PretrainOptions, tokenizer: PreTrainedTokenizerBase):
    """A new model of the preset, or the one to go on from; its vocabulary holds the tokenizer's."""
    model = load_model(options.model) if options.model else new_model(options, tokenizer)
    if options.model and options.architecture == "transformer":
        set_attention(model, options.attn_implementation)
    for ids in (model.config, model.generation_config):
        ids.pad_token_id, ids.bos_token_id = tokenizer.pad_token_id, tokenizer.bos_token_id
        ids.eos_token_id = tokenizer.eos_token_id
    try:
        check_fits(tokenizer, model.config)
    except ValueError as error:
        raise UserError(str(error)) from error
    return model


def sequence_length(options: PretrainOptions, model) -> int:
    """Tokens of a row."""
    longest = getattr(model.config, "max_position_embeddings", None)
    if options.max_length and longest and options.max_length > longest:
        raise UserError(f"--max_length {options.max_length} is longer than the model's {longest} positions")
    if not options.max_length and not longest:
        raise UserError(f"--max_length: {type(model).__name__} takes any length; say how long rows are")
    return options.max_length or longest


def trainable(options: PretrainOptions, model, precision: Precision, parallel: Parallel) -> tuple[nn.Module, list]:
    """What the loop calls: (the model within its loss, its optimizers), in the one order in which the parts fit."""
    device = parallel.accelerator.device
    freeze(model, options.freeze)
    if precision.fp8:
        convert_to_fp8(model)
    recompute_blocks(model, options)
    use_liger = choose_liger(options.use_liger_kernel, device, model)
    loss = NextTokenLoss(model, z_loss=options.z_loss, use_liger=use_liger)
    compile_loss(loss, options, device)
    loss = parallel.wrap(loss)
    optimizers = build_optimizers(model, options)
    if parallel.strategy == "deepspeed":
        return spread(loss, optimizers, options.max_grad_norm, parallel.accelerator)
    return loss, optimizers


def new_model(options: PretrainOptions, tokenizer: PreTrainedTokenizerBase):
    """A model of the preset, or a classic, with weights that know nothing."""
    overrides = parse_overrides(options.config_overrides)
    if options.architecture != "transformer":
        return build_baseline(options.architecture, overrides, tokenizer, options.max_length)
    overrides = {"vocab_size": len(tokenizer), **overrides}
    if options.max_length:
        overrides.setdefault("max_position_embeddings", options.max_length)
    try:
        model = RhapsodeForCausalLM(RhapsodeConfig.from_preset(options.preset, **overrides))
    except Exception as error:  # ValueError, and the strict dataclass's own kinds for a value of the wrong type
        raise UserError(f"--preset {options.preset} with {overrides}: {error}") from error
    set_attention(model, options.attn_implementation)
    return model


class Unborn:
    """In the place of a tokenizer that is yet to be trained: as much of it as a new model asks for."""

    pad_token_id, bos_token_id, eos_token_id = range(3)

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size

    def __len__(self) -> int:
        return self.vocab_size


def check_design(options: PretrainOptions, vocab_size: int) -> None:
    """That there is such a design, before anything is done for it; no memory is taken.

    Raises:
        UserError: as of `new_model`.
    """
    with torch.device("meta"):
        new_model(options, Unborn(vocab_size))


def parse_overrides(items: list[str]) -> dict:
    """`name=value`, the value being YAML."""
    overrides = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not separator:
            raise UserError(f"--config_overrides {item!r} is not of the form name=value")
        try:
            overrides[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"--config_overrides {item!r}: the value is not YAML ({one_line(error, 200)})") from error
    return overrides
