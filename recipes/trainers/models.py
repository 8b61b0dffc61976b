"""The models of a PPO run: the policy, its adapters, its reference, and how frozen ones go onto the device.

The reference is what the policy is at the beginning. Under LoRA that is the policy with its adapter switched off, or,
where training goes on with an adapter that has learned something, a frozen copy of that adapter; otherwise it is a
frozen copy of the whole policy. With LoRA and a value head two models are in memory, one of them the reward model;
without, four.
"""

import copy
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import is_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from trl.models import prepare_deepspeed, prepare_fsdp

REFERENCE_ADAPTER = "ref"  # trl's name for it


def load_arguments(args) -> dict:
    """What `from_pretrained` gets: float32 weights unless told otherwise, as in trl, and never a pickle."""
    given = {"dtype": torch.float32, "use_safetensors": True, **(args.model_init_kwargs or {})}
    return {"trust_remote_code": args.trust_remote_code, **given}


def open_policy(model, args):
    """The model, opened if it is a name."""
    if isinstance(model, str):
        return AutoModelForCausalLM.from_pretrained(model, **load_arguments(args))
    if args.model_init_kwargs is not None:
        raise ValueError("model_init_kwargs is for a model given by name; this one is there already")
    return model


def open_tokenizer(tokenizer, model, args):
    """The tokenizer, the model's own by default, with a padding token that is not the stop token."""
    if tokenizer is None:
        given = args.model_init_kwargs or {}
        options = {"trust_remote_code": args.trust_remote_code, "revision": given.get("revision", "main")}
        tokenizer = AutoTokenizer.from_pretrained(model.config._name_or_path, **options)
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no eos_token, and no completion would ever end; set one")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked by position here, never by its id
    return tokenizer


def stop_tokens(model, tokenizer) -> list[int]:
    """Every token that ends a completion: the tokenizer's EOS, and what the model declares."""
    declared = model.generation_config.eos_token_id
    declared = declared if isinstance(declared, list) else [declared]
    return sorted({tokenizer.eos_token_id, *declared} - {None})


def add_adapters(model, peft_config):
    """The policy with its adapters, if it is to have any; one that is there already gets a frozen copy."""
    if peft_config is not None:
        from peft import get_peft_model

        if is_peft_model(model):
            raise ValueError("model has an adapter already; merge it first, or go on with it and leave peft_config out")
        return get_peft_model(model, copy.deepcopy(peft_config))  # target modules are resolved in place
    if is_peft_model(model) and REFERENCE_ADAPTER not in model.peft_config:
        own = model.active_adapter
        model.add_adapter(REFERENCE_ADAPTER, model.peft_config[own])
        weights = dict(model.named_parameters())
        for name, weight in weights.items():
            if f".{own}." in name:
                weights[name.replace(f".{own}.", f".{REFERENCE_ADAPTER}.")].data.copy_(weight.data)
        model.set_adapter(own)
    return model


def copy_reference(model: PreTrainedModel, args) -> PreTrainedModel:
    """A frozen copy of the policy as it is; under ZeRO-3, whose weights are elsewhere, it is opened once more."""
    if any(hasattr(p, "ds_id") for p in model.parameters()):
        reference = AutoModelForCausalLM.from_pretrained(model.config._name_or_path, **load_arguments(args))
    else:
        reference = copy.deepcopy(model)
    return reference.requires_grad_(False).eval()


@contextmanager
def as_reference(policy):
    """The policy under PEFT as it was at the beginning."""
    if REFERENCE_ADAPTER not in policy.peft_config:
        with policy.disable_adapter():
            yield
        return
    active = policy.active_adapter
    policy.set_adapter(REFERENCE_ADAPTER)
    try:
        yield
    finally:
        policy.set_adapter(active)


def prepare_frozen(model: nn.Module, accelerator: Accelerator, shard: bool) -> nn.Module:
    """A model that is not trained, where the strategy of the run wants it; `shard`, whether FSDP may cut it up."""
    state = accelerator.state
    if state.deepspeed_plugin is not None:
        return prepare_deepspeed(model, accelerator)
    if shard and getattr(state, "fsdp_plugin", None) is not None:
        return prepare_fsdp(model, accelerator)
    return accelerator.prepare_model(model, evaluation_mode=True, device_placement=True)


def switch_dropout_off(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
