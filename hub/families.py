"""The table of families, and why the others are not in it. One row is a `Family`: see `family.py`."""

from difflib import get_close_matches

import transformers
from transformers import CONFIG_MAPPING

from .family import Family
from .gpt_families import GPT_FAMILIES
from .llama_families import LLAMA_FAMILIES

FAMILIES = {family.model_type: family for family in (*LLAMA_FAMILIES, *GPT_FAMILIES)}

ALIBI = "its positions are ALiBi, which is not implemented"
QK_NORM_AFTER_ROPE = "it normalises queries and keys after rotating them, Rhapsode before"
STATE_SPACE = "it is a state-space model; Rhapsode has attention in every layer"
NOT_CAUSAL = "it is not a causal decoder"
REASONS = {
    "bloom": ALIBI,
    "mpt": ALIBI,
    "gemma3_text": "its sliding and its full layers rotate at different bases",
    "hunyuan_v1_dense": QK_NORM_AFTER_ROPE,
    "nanochat": QK_NORM_AFTER_ROPE,
    "ministral3": "it scales queries by their position",
    "granite_swa": "each of its layers rotates at a base of its own",
    "xglm": "its table of sinusoids is in another order and starts at row 2",
    "apertus": "its activation has parameters of its own",
    "diffllama": "its attention is a difference of two softmaxes",
    "mamba": STATE_SPACE,
    "mamba2": STATE_SPACE,
    "falcon_mamba": STATE_SPACE,
    "bert": NOT_CAUSAL,
    "roberta": NOT_CAUSAL,
}
# Settings that no family of the table has: any of them in a config.json tells why the model cannot be expressed.
MARKS = {
    "kv_lora_rank": "it has multi-head latent attention",
    "num_experts": "it is a mixture of experts",
    "num_local_experts": "it is a mixture of experts",
    "n_routed_experts": "it is a mixture of experts",
    "moe_num_experts": "it is a mixture of experts",
    "is_encoder_decoder": "it is an encoder and a decoder",
    "vision_config": "it has a vision tower; convert its language model alone",
}


def family_of(config: dict) -> Family:
    """The row for a `config.json`.

    Raises:
        ValueError: naming the model type and why it is not in the table.
    """
    name = config.get("model_type")
    if name in FAMILIES:
        return _row(name)
    if name == "rhapsode":
        raise ValueError("model_type='rhapsode' is ours already; use RhapsodeForCausalLM.from_pretrained")
    marks = (reason for key, reason in MARKS.items() if config.get(key))
    reason = REASONS.get(name) or next(marks, None) or f"it is none of {', '.join(sorted(FAMILIES))}"
    raise ValueError(f"model_type={name!r} cannot be a Rhapsode model: {reason}")


def family_named(name: str) -> Family:
    """The row for a name that a user gave.

    Raises:
        ValueError: naming the nearest family, or why there is none.
    """
    if name in FAMILIES:
        return _row(name)
    if name in REASONS:
        raise ValueError(f"family={name!r} cannot be written: {REASONS[name]}")
    nearest = get_close_matches(name, FAMILIES, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"use one of {', '.join(sorted(FAMILIES))}"
    raise ValueError(f"family={name!r} is unknown; {hint}")


def _row(name: str) -> Family:
    if name not in CONFIG_MAPPING:
        raise ValueError(f"family {name!r} is not in transformers {transformers.__version__}; upgrade transformers")
    return FAMILIES[name]
