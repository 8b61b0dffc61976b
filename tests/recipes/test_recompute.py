"""Recomputed blocks: the same gradients to the bit, fewer tensors kept."""

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.options.pretrain import PretrainOptions
from rhapsode.recipes.training.loss import NextTokenLoss
from rhapsode.recipes.training.parameters import blocks
from rhapsode.recipes.training.recompute import recompute_blocks
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

LAYERS = 4
SIZES = {"num_hidden_layers": LAYERS, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}


def model_of(kind: str):
    if kind == "rhapsode":
        return RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny", num_hidden_layers=LAYERS))
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(vocab_size=100, **SIZES))
    return GPT2LMHeadModel(GPT2Config(n_layer=LAYERS, n_embd=32, n_head=2, vocab_size=100))  # with dropout


def options(every: int) -> PretrainOptions:
    return PretrainOptions(gradient_checkpointing=every > 0, gradient_checkpointing_every=max(every, 1))


def step(model) -> tuple[dict, int]:
    """The gradients, and the bytes that the forward pass keeps for the backward pass."""
    torch.manual_seed(5)  # of dropout
    model.zero_grad()
    ids, kept = torch.arange(64).view(2, 32), {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = NextTokenLoss(model)({"input_ids": ids, "labels": ids}, torch.tensor(62))
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return gradients, sum(kept.values())


@pytest.mark.parametrize("kind", ["rhapsode", "llama", "gpt2"])
def test_the_same_gradients_from_less_memory(kind, seed):
    model = model_of(kind).train()
    found = {}
    for every in (0, 3, 2, 1):
        recompute_blocks(model, options(every))
        flags = [getattr(block, "gradient_checkpointing", False) for block in blocks(model).values()]
        assert flags == [every > 0 and i % every == 0 for i in range(LAYERS)]
        gradients, found[every] = step(model)
        if every == 0:
            expected = gradients
        assert gradients.keys() == expected.keys()
        assert all(torch.equal(g, expected[name]) for name, g in gradients.items())
    # 2 of 4 blocks are recomputed both at every third and at every second, all 4 at every one.
    assert found[1] < found[2] == found[3] < found[0]


def test_a_frozen_embedding_stays_out_of_the_backward_pass(seed):
    model = model_of("rhapsode").train()
    recompute_blocks(model, options(1))
    model.model.embed_tokens.requires_grad_(False)
    hidden = model.model.embed_tokens(torch.arange(5))
    assert not hidden.requires_grad


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="without --gradient_checkpointing: add it"):
        recompute_blocks(model_of("rhapsode"), PretrainOptions(gradient_checkpointing_every=2))
    with pytest.raises(UserError, match="must be above 0"):
        recompute_blocks(model_of("rhapsode"), PretrainOptions(gradient_checkpointing_every=0))
    with pytest.raises(UserError, match="Linear cannot recompute"):
        recompute_blocks(nn.Linear(2, 2), options(1))
