"""Tiny models of other families, with every parameter random, and how two models are compared."""

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

VOCABULARY = 128


COMMON = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": None}
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
MULTI_HEAD = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
PLAIN = {name: size for name, size in MULTI_HEAD.items() if name != "intermediate_size"}
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
OWN_SIZES = {
    "gpt2": GPT,
    "openai-gpt": GPT,
    "gpt_bigcode": GPT,
    "gptj": GPT,
    "codegen": GPT,
    "gpt_neo": {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 256},
    "gpt_neox": MULTI_HEAD,
    "persimmon": MULTI_HEAD,
    "biogpt": MULTI_HEAD,
    "falcon": PLAIN | {"ffn_hidden_size": 96},
    "opt": PLAIN | {"ffn_dim": 96, "word_embed_proj_dim": 64},
}


def tiny_foreign_config(model_type: str, **settings):
    """The family's own configuration at a size that runs in milliseconds; `settings` come on top."""
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} does not have {model_type}")
    return CONFIG_MAPPING[model_type](**COMMON | OWN_SIZES.get(model_type, SIZES) | settings)


@torch.no_grad()
def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter, norms and biases too, at scales that keep activations near 1."""
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter)
        if parameter.dim() > 1:
            parameter.copy_(noise * parameter.shape[-1] ** -0.5)
        else:
            parameter.copy_(1 + 0.3 * noise if name.endswith("weight") else 0.2 * noise)
    return model


def random_foreign_model(model_type: str, **settings) -> torch.nn.Module:
    config = tiny_foreign_config(model_type, **settings)
    return randomise(AutoModelForCausalLM.from_config(config, attn_implementation="eager")).eval()


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, in units of the largest entry of `b`."""
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


class Tools:
    vocabulary, sizes = VOCABULARY, SIZES
    config = staticmethod(tiny_foreign_config)
    randomise = staticmethod(randomise)
    random_model = staticmethod(random_foreign_model)
    relative_difference = staticmethod(relative_difference)


@pytest.fixture
def tools() -> type[Tools]:
    return Tools
