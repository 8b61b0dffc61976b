"""A family: how the configuration of another architecture maps to `RhapsodeConfig`, in both directions.

Nothing is approximated, and the check is not left to the rows of the table:

loading   The configuration is mapped to ours and back. A field of theirs that does not survive is a setting that we
          would lose, and is refused by name.
saving    Ours is mapped to theirs and back. A field of ours that does not survive is one that the family does not
          have, and is refused by name.
"""

import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field

from transformers import CONFIG_MAPPING
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

from ..modeling import RhapsodeConfig
from .packing import Packing

logger = logging.get_logger(__name__)

# What an architecture has unless its row says otherwise: every switch of `RhapsodeConfig`, in its plainest position.
PLAIN = {
    "norm_type": "rms_norm",
    "norm_affine": True,
    "norm_bias": False,
    "norm_order": "pre",
    "embedding_norm": False,
    "parallel_block": False,
    "parallel_shared_norm": True,
    "residual_multiplier": 1.0,
    "attention_bias": False,
    "attention_out_bias": None,
    "attention_multiplier": None,
    "qk_norm": "none",
    "clip_qkv": None,
    "sliding_window": None,
    "layer_types": None,
    "position_embedding_type": "rope",
    "rope_parameters": None,
    "rope_interleaved": False,
    "no_rope_layers": None,
    "mlp_gated": True,
    "mlp_bias": False,
    "embedding_multiplier": 1.0,
    "lm_head_bias": False,
    "logit_scale": 1.0,
    "final_logit_softcapping": None,
    "attention_dropout": 0.0,
    "residual_dropout": 0.0,
    "embedding_dropout": 0.0,
    "head_dim": None,
}
SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "max_position_embeddings", "hidden_act", "norm_eps", "tie_word_embeddings"),
)
TRAINING = ("attention_dropout", "residual_dropout", "embedding_dropout", "initializer_range")
TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")

# Fields of theirs that change nothing in the forward pass of a causal language model in evaluation.
INERT = {
    *TRAINING,
    *TOKENS,
    *("use_cache", "pretraining_tp", "classifier_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"),
    *("dropout", "layerdrop", "activation_dropout", "resid_dropout", "embed_dropout", "init_std", "is_decoder"),
    *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),
}


def same(*names: str) -> dict[str, str]:
    """Fields that have the same name on both sides."""
    return {name: name for name in names}


def nothing(config) -> dict:
    return {}


@dataclass(frozen=True)
class Family:
    """One row of the table.

    model_type   as in their config.json
    fixed        our fields that have one value throughout the family, where it differs from `PLAIN`
    fields       our field -> theirs, copied both ways
    read, write  the fields that take more than copying: their configuration -> our fields, and back
    rope         "whole" (a head rotates in full), "partial" (`partial_rotary_factor` is obeyed), or "none" where
                 `rope_parameters` is not a field of theirs, or one that the row reads and writes itself
    head_dim     "field", "derived" (always hidden_size / num_attention_heads) or "optional" (derived unless stated)
    names        our module -> theirs, for those that differ; `model.layers` is the list of blocks, and the modules in
                 a block are named from there on. A function of our configuration where the names depend on it
    packings     see `packing.py`
    inert        fields of theirs, beside `INERT`, that `read` takes into account already, or that only steer defaults
    reasons      their field -> why another value is refused, and what to do
    """

    model_type: str
    fixed: dict = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    read: Callable[[PreTrainedConfig], dict] = nothing
    write: Callable[[RhapsodeConfig], dict] = nothing
    rope: str = "whole"
    head_dim: str = "derived"
    names: dict[str, str] | Callable[[RhapsodeConfig], dict[str, str]] = field(default_factory=dict)
    packings: tuple[Packing, ...] = ()
    inert: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)

    def names_for(self, config: RhapsodeConfig) -> dict[str, str]:
        return self.names(config) if callable(self.names) else self.names


def to_rhapsode(family: Family, theirs: PreTrainedConfig) -> RhapsodeConfig:
    """Our configuration of the network that `theirs` describes.

    Raises:
        ValueError: for a setting that we do not have; the message names the field, its value and the reason.
    """
    with one_line_error(f"this model_type={family.model_type!r} cannot be a Rhapsode model"):
        ours = read(family, theirs)
        rebuilt = write(family, ours)
    names = type(theirs).__dataclass_fields__.keys() - PreTrainedConfig.__dataclass_fields__.keys()
    for name in sorted(names - INERT - set(family.inert)):
        value, kept = getattr(theirs, name), getattr(rebuilt, name)
        if value is not None and not _equal(value, kept):
            reason = family.reasons.get(name, f"Rhapsode has no switch for it; only {name}={kept!r} is")
            raise ValueError(f"{name}={value!r} of model_type={family.model_type!r} is not supported: {reason}")
    return ours


def to_family(family: Family, ours: RhapsodeConfig) -> PreTrainedConfig:
    """The family's configuration of the network that `ours` describes.

    Raises:
        ValueError: where the family has no such network; the message names each field, its value and what it has.
    """
    with one_line_error(f"this model cannot be written as family {family.model_type!r}"):
        theirs = write(family, ours)
        again = read(family, theirs)
    wanted, kept = describe(ours), describe(again)
    lost = [name for name in wanted if not _equal(wanted[name], kept[name])]
    if lost:
        what = "; ".join(f"{name}={wanted[name]!r}, where the family has {kept[name]!r}" for name in lost)
        raise ValueError(f"family {family.model_type!r} cannot express {what}; choose another family or change these")
    ignored = {name: getattr(ours, name) for name in TRAINING if not _equal(getattr(ours, name), getattr(again, name))}
    if ignored:
        logger.warning(f"{family.model_type!r} has no place for {ignored}: training settings, not saved")
    return theirs


@contextmanager
def one_line_error(what: str):
    """Whatever a configuration class objects to, as a `ValueError` of one line that begins with `what`."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what}: {' '.join(str(error).split())}") from error


def read(family: Family, theirs: PreTrainedConfig) -> RhapsodeConfig:
    """Their configuration in our fields, unchecked."""
    fields = PLAIN | family.fixed | {ours: getattr(theirs, name) for ours, name in family.fields.items()}
    if family.rope != "none":
        fields["rope_parameters"] = read_rope(theirs.rope_parameters, family.rope == "partial")
    if family.head_dim != "derived":
        fields["head_dim"] = getattr(theirs, "head_dim", None)
    fields |= family.read(theirs)
    fields |= {name: getattr(theirs, name, None) for name in TOKENS}
    pad = fields["pad_token_id"]
    if pad is not None and not 0 <= pad < fields["vocab_size"]:
        fields["pad_token_id"] = None  # -1 and the like: early conversions' word for "none"
    if fields.get("num_key_value_heads") is None:
        fields["num_key_value_heads"] = fields["num_attention_heads"]
    return RhapsodeConfig(**fields, dtype=theirs.dtype)


def write(family: Family, ours: RhapsodeConfig) -> PreTrainedConfig:
    """Our configuration in their fields, unchecked."""
    fields = {name: getattr(ours, mine) for mine, name in family.fields.items()}
    if family.rope != "none":
        fields["rope_parameters"] = rope = write_rope(ours, family.rope == "partial")
        if family.rope == "partial":  # transformers 5.16 takes its default, whatever the parameters say
            fields["partial_rotary_factor"] = rope.get("partial_rotary_factor", 1.0)
    if family.head_dim == "field" or (family.head_dim == "optional" and ours.head_dim != _derived_head_dim(ours)):
        fields["head_dim"] = ours.head_dim
    fields |= {name: getattr(ours, name) for name in TOKENS} | family.write(ours)
    return CONFIG_MAPPING[family.model_type](**fields, dtype=ours.dtype)


def describe(config: RhapsodeConfig) -> dict:
    """The network that a configuration defines, in a form in which equal networks have equal entries."""
    types = config.attention_types()
    rotates = [int(config.uses_rope(i)) for i in range(config.num_hidden_layers)]
    out = {name: getattr(config, name, None) for name in (*SIZES, *PLAIN) if name not in TRAINING}  # RoPE may be absent
    if config.attention_multiplier is None:
        out["attention_multiplier"] = config.head_dim**-0.5
    out["layer_types"] = types
    out["sliding_window"] = config.sliding_window if "sliding_attention" in types else None
    out["no_rope_layers"] = rotates
    if any(rotates):
        out["rope_parameters"] = _clean_rope(config.rope_parameters)
    else:
        out["rope_parameters"], out["rope_interleaved"] = None, False
        if config.position_embedding_type == "rope":
            out["position_embedding_type"] = "none"
    if not config.parallel_block:
        out["parallel_shared_norm"] = True
    if config.hidden_act == "swish":
        out["hidden_act"] = "silu"
    return out


def _derived_head_dim(config) -> int | None:
    D, H = config.hidden_size, config.num_attention_heads
    return D // H if D % H == 0 else None


# Rotary positions


def read_rope(parameters: dict, partial: bool) -> dict:
    """Their rotary parameters as ours: one set for all layers, with a factor for a partial rotation where it counts."""
    if "rope_type" not in parameters:
        first, *others = parameters.values()
        if any(not _equal(_clean_rope(first), _clean_rope(other)) for other in others):
            raise ValueError(
                f"rope_parameters={parameters} differ between the layer types: Rhapsode rotates all layers alike"
            )
        parameters = first
    factor = parameters.get("partial_rotary_factor", 1.0)
    if not partial and factor != 1.0:
        raise ValueError(
            f"partial_rotary_factor={factor}: heads rotate in full here; use 1.0, or a family such as 'phi3'"
        )
    return dict(parameters)


def write_rope(config: RhapsodeConfig, partial: bool) -> dict:
    """Ours as theirs. The factor is written out, 1.0 too: some families take a fraction when it is missing."""
    if config.position_embedding_type != "rope":
        return {"rope_type": "default", "rope_theta": 10000.0}  # the comparison will say that there is no rotation
    parameters = dict(config.rope_parameters)
    if partial:
        parameters.setdefault("partial_rotary_factor", 1.0)
    return parameters


def _clean_rope(parameters: dict | None) -> dict | None:
    if parameters is None:
        return None
    neutral = {"type": parameters.get("rope_type"), "partial_rotary_factor": 1.0}
    return {k: v for k, v in sorted(parameters.items()) if v is not None and neutral.get(k) != v}


def _equal(a, b) -> bool:
    """Equality of configuration values: 1 and 1.0 are equal, and 1 / (1 / x) is x."""
    if isinstance(a, dict) and isinstance(b, dict):
        a, b = _clean_rope(a), _clean_rope(b)
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, float) or isinstance(b, float):
        return a is not None and b is not None and math.isclose(a, b, rel_tol=1e-9)
    return a == b
