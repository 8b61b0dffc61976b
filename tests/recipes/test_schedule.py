"""The learning rate and the batch at every step, against closed forms and plain counting."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.options.pretrain import SCHEDULES, PretrainOptions
from rhapsode.recipes.training.schedule import BatchSchedule, learning_rate_share

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


# The batch

sizes = st.builds(BatchSchedule, st.integers(1, 12), st.integers(1, 40), st.integers(0, 60))


def test_the_batch_grows_evenly_to_its_full_size():
    """4 forward passes over 6 steps: 1 + floor(3 s / 6)."""
    schedule = BatchSchedule(rows_per_pass=10, full=4, warmup_steps=6)
    assert [schedule.passes(s) for s in range(9)] == [1, 1, 2, 2, 3, 3, 4, 4, 4]
    assert [schedule.rows_before(s) for s in range(9)] == [0, 10, 20, 40, 60, 90, 120, 160, 200]


@given(sizes, st.integers(0, 200))
def test_rows_before_a_step_are_those_of_the_steps_before(schedule, step):
    assert schedule.rows_before(step) == sum(schedule.rows(s) for s in range(step))
    assert 1 <= schedule.passes(step) <= schedule.passes(step + 1) <= schedule.full
    assert schedule.passes(schedule.warmup_steps) == schedule.full


@given(sizes, st.integers(0, 3000) | st.floats(0, 3000))
def test_as_many_steps_as_there_are_rows_for(schedule, rows):
    steps = schedule.steps_within(rows)
    assert steps == 1 or schedule.rows_before(steps) <= rows
    assert schedule.rows_before(steps + 1) > rows


def test_the_batch_is_proportional_to_the_processes():
    options = PretrainOptions(per_device_train_batch_size=3, gradient_accumulation_steps=5, batch_warmup_steps=7)
    one, four = BatchSchedule.of(options, 1), BatchSchedule.of(options, 4)
    assert all(4 * one.rows_before(s) == four.rows_before(s) for s in range(20))
    assert one.rows(100) == 15
    assert BatchSchedule.of(PretrainOptions(per_device_train_batch_size=3), 2) == BatchSchedule(6, 1)


def test_a_warm_up_of_nothing_is_refused():
    with pytest.raises(UserError, match="--gradient_accumulation_steps 1"):
        BatchSchedule.of(PretrainOptions(batch_warmup_steps=5), 1)
    with pytest.raises(UserError, match="must not be negative"):
        BatchSchedule.of(PretrainOptions(batch_warmup_steps=-5, gradient_accumulation_steps=2), 1)
