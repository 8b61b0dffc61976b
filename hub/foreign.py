"""Checkpoints of other families: open one as a Rhapsode model, write a Rhapsode model as one.

    >>> model = rhapsode.load_foreign("EleutherAI/pythia-1b")
    >>> rhapsode.save_foreign(model, "out", family="gpt_neox")     # GPTNeoXForCausalLM.from_pretrained("out") opens it

The logits are those of the family's own class, up to rounding. What cannot be represented exactly is refused.
"""

import copy
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING
from transformers.configuration_utils import PreTrainedConfig
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from ..modeling import RhapsodeForCausalLM
from .families import family_named, family_of
from .family import Family, one_line_error, to_family, to_rhapsode
from .opening import without_report
from .source import check_source
from .tensors import BUFFERS, foreign_tensors, weight_transforms

logger = logging.get_logger(__name__)

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
WEIGHT_FILES = re.compile(r"(pytorch_)?model(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?")


def load_foreign(path_or_id: str | os.PathLike, **from_pretrained_kwargs) -> RhapsodeForCausalLM:
    """Open a checkpoint of another family, in a directory or on the Hub, as a Rhapsode model.

    Shards are read and converted tensor by tensor, so that the peak of memory is about the size of the model.

    Args:
        path_or_id: a directory or a Hub id whose `config.json` has one of the families' model types.
        from_pretrained_kwargs: `dtype`, `device_map`, `revision`, ..., as for `from_pretrained`.

    Raises:
        ValueError: for an architecture or a setting that Rhapsode cannot represent exactly, and for a checkpoint whose
            tensors are not those of its configuration. The message names the cause.
    """
    if "config" in from_pretrained_kwargs:
        raise ValueError("config cannot be given to load_foreign: it follows from the checkpoint's own")
    hub_options = {name: from_pretrained_kwargs[name] for name in HUB_OPTIONS if name in from_pretrained_kwargs}
    check_source(path_or_id, hub_options.get("revision"), hub_options.get("subfolder") or "")
    fields, _ = PreTrainedConfig.get_config_dict(path_or_id, **hub_options)
    family = family_of(fields)
    if fields.get("quantization_config"):
        raise ValueError(f"quantization_config in {path_or_id}: dequantize the checkpoint first, then load it")
    with one_line_error(f"the config.json of {path_or_id} is not a {family.model_type!r}"):
        theirs = CONFIG_MAPPING[family.model_type].from_dict(fields)
    config = to_rhapsode(family, theirs)

    report = from_pretrained_kwargs.pop("output_loading_info", False)
    settings = {**from_pretrained_kwargs, "config": config, "ignore_mismatched_sizes": True}
    with _conversions(weight_transforms(family, config)), without_report():
        model, info = RhapsodeForCausalLM.from_pretrained(path_or_id, output_loading_info=True, **settings)
    _refuse_incomplete(path_or_id, info)
    model.config.tie_word_embeddings = _tied(model)  # transformers leaves two heads that differ apart, whatever it says
    model._weight_conversions = []  # from here on it is a Rhapsode model: save_pretrained writes our names
    _warn(family, model)
    return (model, info) if report else model


_registry = threading.Lock()


@contextmanager
def _conversions(transforms: list):
    """Registered while loading only: transformers would apply them to our own checkpoints as well."""
    name = RhapsodeForCausalLM.__name__
    with _registry:
        register_checkpoint_conversion_mapping(name, transforms, overwrite=True)
        try:
            yield
        finally:
            register_checkpoint_conversion_mapping(name, [], overwrite=True)


def _refuse_incomplete(path_or_id, info: dict) -> None:
    missing = sorted(info["missing_keys"])
    unexpected = sorted(name for name in info["unexpected_keys"] if not BUFFERS.search(f".{name}"))
    others = [f"{name} of shape {list(there)}" for name, there, _ in sorted(info["mismatched_keys"])]
    for problem, names in (("has other sizes,", others), ("lacks", missing), ("has unknown", unexpected)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(
                f"{path_or_id} {problem} {', '.join(names[:3])}{more} (in Rhapsode's names): "
                "the tensors do not fit the config.json; give the complete checkpoint of a causal language model"
            )


def _tied(model) -> bool:
    return model.lm_head.weight is model.get_input_embeddings().weight


def _warn(family: Family, model) -> None:
    if model.dtype.itemsize < 4 and any(packing.rounds for packing in family.packings):
        logger.warning(
            f"{family.model_type!r} stores norm scales as their distance from 1: in {model.dtype} the sum is rounded; "
            "load with dtype=torch.float32 to keep them exactly"
        )
    if (getattr(model.config, "rope_parameters", None) or {}).get("rope_type") == "longrope":
        logger.warning(
            "rope_type='longrope' changes its frequencies beyond original_max_position_embeddings: generation with a "
            "cache that crosses this length keeps the keys rotated before; use use_cache=False across it"
        )


def save_foreign(
    model: RhapsodeForCausalLM, directory: str | os.PathLike, family: str, max_shard_size: int | str = "5GB"
) -> None:
    """Write a Rhapsode model, wherever it came from, as a checkpoint of `family` that the family's own class loads.

    Writes `config.json`, `generation_config.json` and `model.safetensors`, or shards of `max_shard_size` with their
    index. A shard is put together and written before the next one is.

    Args:
        model: a `RhapsodeForCausalLM` in any dtype, tied or untied.
        family: a model type, such as `"llama"` or `"gpt2"`.

    Raises:
        ValueError: where the family has no such network; the message names each field, its value and what it has.
    """
    if type(model).__name__ != RhapsodeForCausalLM.__name__:
        raise ValueError(
            f"{type(model).__name__} cannot be written as another family, a RhapsodeForCausalLM can; "
            "merge adapters first (merge_and_unload), and leave task heads behind"
        )
    row, config = family_named(family), copy.deepcopy(model.config)
    config.tie_word_embeddings = _tied(model)
    theirs = to_family(row, config)
    theirs.dtype, theirs.architectures = model.dtype, [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[row.model_type]]

    tensors = model.state_dict()
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    if any(tensor.is_meta for tensor in tensors.values()):
        raise ValueError("the model's weights are offloaded or on the meta device; load it into memory first")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():
        if WEIGHT_FILES.fullmatch(old.name):  # a leftover would be loaded in place of what is written now
            old.unlink()
    theirs.save_pretrained(directory)
    if model.generation_config is not None:
        with one_line_error("model.generation_config cannot be saved"):
            model.generation_config.save_pretrained(directory)
    meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    shapes = {name: torch.empty_like(t) for name, t in foreign_tensors(row, config, meta)}
    _write_shards(directory, shapes, foreign_tensors(row, config, tensors), max_shard_size)


def _write_shards(
    directory: Path, shapes: dict[str, torch.Tensor], tensors: Iterator, max_shard_size: int | str
) -> None:
    """Write `tensors`, (name, tensor) pairs whose names and meta shapes are known; each file once it is complete."""
    plan = split_torch_state_dict_into_shards(
        shapes, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
    )
    pending: dict[str, dict] = {}
    for name, tensor in tensors:
        file = plan.tensor_to_filename[name]
        shard = pending.setdefault(file, {})
        shard[name] = tensor.detach().to("cpu").contiguous()
        if len(shard) == len(plan.filename_to_tensors[file]):
            save_file(pending.pop(file), directory / file, metadata={"format": "pt"})
    assert not pending, f"incomplete shards: {sorted(pending)}"
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
