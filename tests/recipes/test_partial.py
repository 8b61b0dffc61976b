"""Frozen parts and rates by layer: which parameters move, and by how much."""

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.options.pretrain import PretrainOptions
from rhapsode.recipes.training.loss import NextTokenLoss
from rhapsode.recipes.training.optimizers import build_optimizers
from rhapsode.recipes.training.partial import freeze, rate_factors
from torch import nn


def model_of(**switches) -> RhapsodeForCausalLM:
    return RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny", num_hidden_layers=3, **switches)).train()


def moved(model, options) -> set[str]:
    """Names of the parameters that a step changes."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    ids = torch.randint(100, (2, 12))
    NextTokenLoss(model)({"input_ids": ids, "labels": ids}, torch.tensor(22)).backward()
    for optimizer in build_optimizers(model, options):
        optimizer.step()
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("optim", ["adamw", "muon"])
@pytest.mark.parametrize(
    ("patterns", "switches"),
    [
        (["model.layers.[01].*"], {}),
        (["lm_head.weight"], {}),
        (["lm_head.weight"], {"tie_word_embeddings": False}),
        (["model.embed_tokens.*", "*norm*"], {}),
        (["model.*"], {"tie_word_embeddings": False}),  # only the head is left
        (["*_proj.weight"], {}),  # nothing left for Muon
        (["model.embed*", "*norm*"], {}),  # nothing left for AdamW
    ],
)
def test_only_what_is_not_frozen_moves(patterns, switches, optim, seed):
    from fnmatch import fnmatchcase

    model = model_of(**switches)
    names = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    frozen = {found[0] for found in names.values() if any(fnmatchcase(n, p) for n in found for p in patterns)}
    count = freeze(model, patterns)
    assert count == sum(p.numel() for name, p in model.named_parameters() if name in frozen)
    assert moved(model, PretrainOptions(optim=optim)) == {n for n, _ in model.named_parameters()} - frozen
    assert all((p.grad is None) == (name in frozen) for name, p in model.named_parameters())


def test_nothing_to_freeze_is_nothing_frozen():
    model = model_of()
    assert freeze(model, []) == 0
    assert all(p.requires_grad for p in model.parameters())


def test_freezing_everything_is_refused():
    with pytest.raises(UserError, match="leaves nothing to train"):
        freeze(model_of(), ["model.layers.*", "model.[en]*"])


def test_decay_by_layer_by_hand():
    factors = rate_factors(model_of(tie_word_embeddings=False), PretrainOptions(layer_lr_decay=0.5))
    assert factors["lm_head.weight"] == factors["model.norm.weight"] == 1
    assert {n: f for n, f in factors.items() if n.endswith("up_proj.weight")} == {
        f"model.layers.{i}.mlp.up_proj.weight": 0.5 ** (3 - i) for i in range(3)
    }
    assert factors["model.embed_tokens.weight"] == 0.5**4


def test_factors_multiply():
    options = PretrainOptions(lr_multipliers=["lm_head.*=0.1", "model.layers.2.*=3", "*_proj.weight=0.5"])
    factors = rate_factors(model_of(), options)
    assert factors["model.embed_tokens.weight"] == 0.1  # the tied head
    assert factors["model.layers.2.mlp.up_proj.weight"] == 1.5
    assert factors["model.layers.2.input_layernorm.weight"] == 3
    assert factors["model.layers.1.mlp.up_proj.weight"] == 0.5
    assert factors["model.norm.weight"] == 1
    assert set(rate_factors(model_of(), PretrainOptions()).values()) == {1.0}


@pytest.mark.parametrize("item", ["0.1", "model.norm.weight", "*=fast", "*=-1", "*=nan", "*=inf"])
def test_what_is_no_factor_is_refused(item):
    with pytest.raises(UserError, match="not of the form pattern=factor"):
        rate_factors(model_of(), PretrainOptions(lr_multipliers=[item]))


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match=r"fits no parameter; the nearest one is model\.norm\.weight"):
        rate_factors(model_of(), PretrainOptions(lr_multipliers=["model.norm.wieght=2"]))
    with pytest.raises(UserError, match="above 0 and at most 1"):
        rate_factors(model_of(), PretrainOptions(layer_lr_decay=0.0))
    with pytest.raises(UserError, match="Linear has no blocks"):
        rate_factors(nn.Linear(2, 2), PretrainOptions(layer_lr_decay=0.9))
