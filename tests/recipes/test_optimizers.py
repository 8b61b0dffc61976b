"""Who decays, who gets Muon, and the learning rate at every step, against closed forms."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.modeling import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.options.pretrain import SCHEDULES, PretrainOptions
from rhapsode.recipes.training.optimizers import build_optimizers, learning_rate_share, set_learning_rate

ROUNDING = 1e-12  # a few float64 operations on numbers of at most one
TOTAL = 1000


def share(step: int, total: int = TOTAL, progress: float | None = None, **options) -> float:
    return learning_rate_share(PretrainOptions(**options), step, total, step / total if progress is None else progress)


# Schedules


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        *[(step, (step + 1) / 101) for step in (0, 1, 50, 99)],
        (100, 1.0),
        (550, 0.1 + 0.9 * 0.5),
        (325, 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))),
        (999, 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 899 / 900))),
    ],
)
def test_cosine(step, expected):
    for warmup in (100, 0.1):  # the same warm-up, as steps and as a share
        got = share(step, warmup_steps=warmup, min_lr_ratio=0.1)
        assert got == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.parametrize(("step", "expected"), [(0, 1 / 201), (200, 1.0), (600, 0.25 + 0.75 * 0.5), (800, 0.4375)])
def test_linear(step, expected):
    got = share(step, lr_scheduler_type="linear", warmup_steps=200, min_lr_ratio=0.25)
    assert got == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 1 / 11), (9, 10 / 11), (10, 1.0), (599, 1.0), (600, 1.0), (700, 0.75), (999, 1 / 400)]
)
def test_wsd(step, expected):
    got = share(step, lr_scheduler_type="wsd", warmup_steps=10, decay_share=0.4)
    assert got == pytest.approx(expected, abs=ROUNDING)


def test_edges():
    assert share(999, lr_scheduler_type="wsd", decay_share=0) == 1.0
    assert share(0, lr_scheduler_type="wsd", decay_share=1, warmup_steps=0) == 1.0
    assert share(5, lr_scheduler_type="constant", warmup_steps=0) == share(0, warmup_steps=0) == 1.0
    assert share(3, lr_scheduler_type="constant", warmup_steps=4) == 0.8
    assert share(0, total=1, warmup_steps=0.02) == pytest.approx(1 / 1.02, abs=ROUNDING)
    assert share(20, total=50, warmup_steps=100) == 21 / 101  # warm-up longer than the run


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.1, 100])
def test_a_run_that_time_cuts_short_has_the_shape_of_a_shorter_run(name, warmup):
    """500 of 5000 steps fit into the time: what the 500 get is what a run of 500 steps gets, warm-up included."""
    for step in range(500):
        cut = share(step, total=5000, progress=step / 500, lr_scheduler_type=name, warmup_steps=warmup)
        short = share(step, total=500, lr_scheduler_type=name, warmup_steps=warmup)
        # Before the first step nobody knows how many there will be.
        assert cut == pytest.approx(short, abs=ROUNDING) or step == 0


@given(
    st.sampled_from(SCHEDULES),
    st.floats(0, 1) | st.integers(0, 10**6),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(1, 10**6),
    st.data(),
)
def test_every_share_is_between_0_and_1(name, warmup, decay, ratio, total, data):
    step = data.draw(st.integers(0, total - 1))
    progress = data.draw(st.just(step / total) | st.floats(0, 1))
    options = {"lr_scheduler_type": name, "warmup_steps": warmup, "decay_share": decay, "min_lr_ratio": ratio}
    assert 0 <= share(step, total, progress, **options) <= 1


@given(st.sampled_from(SCHEDULES), st.floats(0, 0.9), st.integers(2, 300))
def test_up_and_then_never_up_again(name, warmup, total):
    shares = [share(step, total, lr_scheduler_type=name, warmup_steps=warmup) for step in range(total)]
    top = shares.index(max(shares))
    assert all(a <= b + ROUNDING for a, b in pairwise(shares[: top + 1]))
    assert all(a >= b - ROUNDING for a, b in pairwise(shares[top:]))


# Groups


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
