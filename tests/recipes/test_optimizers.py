"""Who decays and who gets Muon; AdamW and Muon against their equations and torch's own."""

from copy import deepcopy

import pytest
import torch
from rhapsode.modeling import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.options.pretrain import PretrainOptions
from rhapsode.recipes.training.muon import Muon, orthogonalize
from rhapsode.recipes.training.optimizers import build_optimizers, set_learning_rate

ROUNDING = 1e-12  # a few float64 operations on numbers of at most one
# torch iterates in bfloat16, whose 8 bits of mantissa are rounded 15 times; here it is float32.
BF16_ITERATION = 0.05


def names_by_group(preset: str, **options):
    """[(kind of optimizer, weight decay, names)] and the names of all trainable parameters."""
    model = RhapsodeForCausalLM(RhapsodeConfig.from_preset(preset))
    name_of = {id(p): name for name, p in model.named_parameters()}
    groups = [
        (type(optimizer).__name__, group["weight_decay"], [name_of[id(p)] for p in group["params"]])
        for optimizer in build_optimizers(model, PretrainOptions(weight_decay=0.3, **options))
        for group in optimizer.param_groups
    ]
    return groups, list(name_of.values())


def is_block_matrix(name: str) -> bool:
    return ".layers." in name and name.endswith("_proj.weight")


@pytest.mark.parametrize("optim", ["adamw", "muon"])
@pytest.mark.parametrize(
    "preset", ["rhapsode-10m-tiny", "gpt2-tiny", "llama2-7b-tiny", "openlm-7b-tiny", "palm-8b-tiny"]
)
def test_matrices_of_the_blocks_decay_and_nothing_else_does(preset, optim):
    groups, names = names_by_group(preset, optim=optim)
    assert sorted(name for *_, group in groups for name in group) == sorted(names)  # each exactly once
    for kind, decay, group in groups:
        assert decay == (0.3 if all(map(is_block_matrix, group)) else 0.0)
        assert all(map(is_block_matrix, group)) == any(map(is_block_matrix, group))
        assert kind == ("Muon" if optim == "muon" and decay else "AdamW")
    assert sum(all(map(is_block_matrix, group)) for *_, group in groups) == 1
    spared = [name for _, decay, group in groups if not decay for name in group]
    assert "model.embed_tokens.weight" in spared
    if preset == "gpt2-tiny":
        assert "model.embed_positions.weight" in spared
        assert "model.layers.0.mlp.up_proj.bias" in spared
    if preset == "llama2-7b-tiny":
        assert "lm_head.weight" in spared


def test_frozen_parameters_are_left_out():
    model = RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny"))
    model.model.layers[0].requires_grad_(False)
    (optimizer,) = build_optimizers(model, PretrainOptions())
    given_to = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert given_to == {id(p) for p in model.parameters() if p.requires_grad}


def test_settings_arrive():
    model = RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny"))
    options = PretrainOptions(
        optim="muon", learning_rate=0.004, muon_learning_rate=0.03, adam_beta1=0.8, adam_beta2=0.9, weight_decay=0.2
    )
    muon, adamw = build_optimizers(model, options)
    assert (muon.param_groups[0]["lr"], muon.param_groups[0]["weight_decay"]) == (0.03, 0.2)
    assert (adamw.param_groups[0]["lr"], adamw.param_groups[0]["betas"]) == (0.004, (0.8, 0.9))
    set_learning_rate([muon, adamw], 0.5)
    set_learning_rate([muon, adamw], 0.25)  # of the peak, not of what was there
    assert [o.param_groups[0]["lr"] for o in (muon, adamw)] == [0.03 / 4, 0.001]


def test_one_step_of_adamw_against_its_equations(seed):
    """Loshchilov and Hutter, algorithm 2, on the first step: m / (sqrt(v) + eps) is the sign of the gradient."""
    model = RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny")).double()
    optimizers = build_optimizers(model, PretrainOptions(learning_rate=0.01, weight_decay=0.3))
    ids = torch.randint(100, (2, 9))
    model(input_ids=ids, labels=ids).loss.backward()
    before = {name: (p.detach().clone(), p.grad.clone()) for name, p in model.named_parameters()}
    optimizers[0].step()
    for name, p in model.named_parameters():
        old, grad = before[name]
        decayed = old * (1 - 0.01 * 0.3) if is_block_matrix(name) else old
        expected = decayed - 0.01 * grad / (grad.abs() + 1e-8)
        torch.testing.assert_close(p.detach(), expected, rtol=ROUNDING, atol=ROUNDING)


def trained(model, options, steps=3) -> list:
    optimizers = build_optimizers(model, options)
    for step in range(steps):
        ids = torch.randint(100, (2, 9), generator=torch.Generator().manual_seed(step))
        model(input_ids=ids, labels=ids).loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return optimizers


def test_rates_by_layer_and_pattern_reach_both_optimizers():
    options = PretrainOptions(
        optim="muon", muon_learning_rate=0.02, learning_rate=0.01, layer_lr_decay=0.5, lr_multipliers=["*.o_proj.*=3"]
    )
    model = RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny"))
    rates = {}
    for optimizer in build_optimizers(model, options):
        rates |= {id(p): g["peak_lr"] for g in optimizer.param_groups for p in g["params"]}
        assert all(g["peak_lr"] == g["lr"] for g in optimizer.param_groups)
    found = {name: rates[id(p)] for name, p in model.named_parameters()}
    last = model.config.num_hidden_layers - 1
    assert found["model.norm.weight"] == 0.01
    assert found[f"model.layers.{last}.mlp.up_proj.weight"] == 0.02 / 2
    assert found[f"model.layers.{last}.self_attn.o_proj.weight"] == pytest.approx(0.02 / 2 * 3)
    assert found["model.layers.0.input_layernorm.weight"] == 0.01 * 0.5 ** (last + 1)
    assert found["model.embed_tokens.weight"] == 0.01 * 0.5 ** (last + 2)


def test_the_same_options_give_the_same_order_of_state(seed):
    """What a checkpoint numbers 0, 1, 2, ... is the same parameter in the run that goes on from it."""
    options = PretrainOptions(optim="muon", layer_lr_decay=0.9, lr_multipliers=["*norm*=0.5"])
    config = RhapsodeConfig.from_preset("rhapsode-10m-tiny")
    first, second = RhapsodeForCausalLM(config), RhapsodeForCausalLM(config)
    before = trained(first, options)
    after = build_optimizers(second, options)
    second.load_state_dict(first.state_dict())
    for one, other in zip(before, after, strict=True):
        other.load_state_dict(deepcopy(one.state_dict()))  # it would take over the tensors themselves
    for model, optimizers in ((first, before), (second, after)):
        ids = torch.arange(18).view(2, 9)
        model(input_ids=ids, labels=ids).loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


# Muon


def muon_steps(cls, shape, **settings) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    w = torch.nn.Parameter(torch.randn(shape, generator=generator))
    optimizer = cls([w], lr=0.1, weight_decay=0.3, **settings)
    for _ in range(4):
        w.grad = torch.randn(shape, generator=generator)
        optimizer.step()
    return w.detach()


@pytest.mark.parametrize("shape", [(24, 24), (40, 24), (24, 40)])
@pytest.mark.parametrize("settings", [{}, {"nesterov": False}, {"adjust_lr_fn": "match_rms_adamw", "momentum": 0.8}])
def test_muon_is_torchs(shape, settings):
    ours, theirs = (muon_steps(cls, shape, **settings) for cls in (Muon, torch.optim.Muon))
    undecayed = muon_steps(Muon, shape, **settings | {"ns_steps": 0})  # a direction of the same size, not orthogonal
    assert (ours - theirs).norm() < BF16_ITERATION * (undecayed - theirs).norm()


@pytest.mark.parametrize("shape", [(30, 30), (50, 20), (20, 50)])
def test_orthogonalize_keeps_the_directions_and_evens_out_the_sizes(shape, seed):
    """Against the singular value decomposition: U S V' becomes U T V' with all of T near 1."""
    settings = torch.optim.Muon([torch.nn.Parameter(torch.zeros(2, 2))]).defaults
    u, _, vt = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    sizes = torch.linspace(0.1, 5, min(shape), dtype=torch.float64)
    result = u.mT @ orthogonalize(u * sizes @ vt, settings) @ vt.mT
    diagonal = result.diagonal()
    assert (result - diagonal.diag()).abs().max() < ROUNDING * 100  # 15 products of that size
    assert diagonal.min() > 0.5
    assert diagonal.max() < 1.3


def test_muon_leaves_alone_what_has_no_gradient():
    w = torch.nn.Parameter(torch.randn(3, 3))
    before = w.detach().clone()
    Muon([w], weight_decay=0.5).step()
    assert torch.equal(w, before)
