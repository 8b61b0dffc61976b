"""The value model: V(prompt, y_1 .. y_{t-1}), the score that is still to be expected, less the penalty.

Three kinds. `ValueHead`: a linear map of the policy's own last hidden states, with almost no memory of its own.
`ValueModel`: a backbone and a head of its own, which start as the reward model's (Ouyang et al. 2022, arXiv:2203.02155,
section 3.5) or, where there is none of the same vocabulary, as the policy's with a head of zeros. Zeros, because then
the first advantages are returns and not noise.
"""

import copy
from pathlib import Path

import safetensors.torch
import torch
from torch import nn
from transformers import PreTrainedModel

# In a folder of its own: some servers read every .safetensors beside a model's as more of its weights.
VALUE_FILE = "value_model/value_model.safetensors"
KINDS = ("auto", "head", "reward", "policy")


class ValueHead(nn.Module):
    """On the trunk of the policy."""

    def __init__(self, policy: PreTrainedModel):
        super().__init__()
        self.score = zero_head(policy)

    def forward(self, hidden: torch.Tensor, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, T, D) hidden states to (B, T) values, each of what stands before its token."""
        return _before(self.score(hidden.to(self.score.weight.dtype)))


class ValueModel(nn.Module):
    """With a trunk of its own."""

    def __init__(self, backbone: PreTrainedModel, score: nn.Linear | None = None):
        super().__init__()
        self.backbone = backbone
        self.score = score or zero_head(backbone)

    def forward(self, hidden: torch.Tensor, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, T) ids to (B, T) values, each of what stands before its token; the policy's states are not looked at."""
        own = self.backbone(input_ids=ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        return _before(self.score(own.to(self.score.weight.dtype)))


def _before(scores: torch.Tensor) -> torch.Tensor:
    scores = scores.squeeze(-1)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return nn.functional.pad(scores[:, :-1], (1, 0))  # the state before token t is the one after token t - 1


def zero_head(model: PreTrainedModel) -> nn.Linear:
    """In float32 at least, whatever the model's weights are in."""
    dtype = torch.promote_types(model.dtype, torch.float32)
    head = nn.Linear(model.config.get_text_config().hidden_size, 1, dtype=dtype)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def build_value_model(kind: str, policy: PreTrainedModel, rewards: list, has_adapters: bool, peft_config) -> nn.Module:
    """`kind` is one of KINDS or a directory with the value model of an earlier run.

    `policy` is the model itself; `has_adapters`, whether adapters are in it already; with `peft_config`, those that
    are to come, a trunk of its own gets adapters as well.

    Raises:
        ValueError: no reward model to start from, a trunk that cannot be copied, or a file that does not fit.
    """
    fitting = [model for model in rewards if _has_same_vocabulary(model, policy)]
    if kind == "auto":
        kind = "reward" if fitting else "head" if has_adapters or peft_config is not None else "policy"
    if has_adapters and kind not in ("head", "reward"):
        raise ValueError(f"value_model={kind!r} would copy the adapter that the model has; use head or reward")
    if kind == "head":
        value_model = ValueHead(policy)
    elif kind == "reward":
        if not fitting:
            raise ValueError(
                "value_model='reward', but no reward model has the policy's vocabulary; use head or policy"
            )
        value_model = ValueModel(copy.deepcopy(fitting[0].base_model), copy.deepcopy(fitting[0].score))
    elif kind == "policy":
        value_model = ValueModel(copy.deepcopy(policy.base_model))
    else:
        value_model = _load(Path(kind), policy, peft_config)
        return value_model.to(policy.device).requires_grad_(True)
    value_model.to(policy.device).requires_grad_(True)
    if peft_config is not None and isinstance(value_model, ValueModel):
        _add_adapters(value_model, peft_config)
    return value_model


def _load(directory: Path, policy: PreTrainedModel, peft_config) -> nn.Module:
    path = directory / VALUE_FILE
    if not path.is_file():
        raise ValueError(
            f"value_model={str(directory)!r} is none of {', '.join(KINDS)} and no directory with {VALUE_FILE}"
        )
    weights = safetensors.torch.load_file(path)
    if any(".lora_" in name or ".base_layer." in name for name in weights):
        raise ValueError(f"{path} holds adapters beside its weights; train it without peft_config to start from it")
    is_head = not any(name.startswith("backbone.") for name in weights)
    value_model = ValueHead(policy) if is_head else ValueModel(copy.deepcopy(policy.base_model))
    try:
        value_model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} is not of a model like {type(policy).__name__}: {error}") from error
    return value_model


def _add_adapters(value_model: ValueModel, peft_config) -> None:
    from peft import inject_adapter_in_model

    inject_adapter_in_model(copy.deepcopy(peft_config), value_model.backbone)  # resolves target modules in place
    value_model.score.requires_grad_(True)


def _has_same_vocabulary(model, policy: PreTrainedModel) -> bool:
    """A number of tokens, which is what a copied embedding needs."""
    if not isinstance(getattr(model, "score", None), nn.Linear) or not hasattr(model, "base_model"):
        return False
    return model.config.get_text_config().vocab_size == policy.config.get_text_config().vocab_size
