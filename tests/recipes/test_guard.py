"""Which steps are left out, against numbers made up for it; and that a step that is left out leaves nothing behind."""

import json
import math
import random
from statistics import NormalDist

import pytest
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.training.guard import FEWEST, WINDOW, Guard

NOT_FINITE = (math.nan, math.inf, -math.inf)


def quiet_guard(threshold=6.0, max_skipped=3, steps=WINDOW) -> Guard:
    """A guard after an even number of steps with losses of 3 +- 0.1 and norms of 1 +- 0.1: medians 3 and 1, MAD 0.1."""
    guard = Guard(threshold, max_skipped)
    guard.load({"skipped": 0, "losses": [2.9, 3.1] * (steps // 2), "norms": [0.9, 1.1] * (steps // 2)})
    return guard


@pytest.mark.parametrize("threshold", [0.0, 6.0])
@pytest.mark.parametrize("bad", NOT_FINITE)
def test_what_is_not_finite_is_never_accepted(threshold, bad):
    for guard in (Guard(threshold, 2), quiet_guard(threshold, 2)):
        assert not guard.accepts(7, bad, 1.0)
        assert not guard.accepts(8, 3.0, bad)
        assert guard.skipped == 2
        assert all(math.isfinite(x) for x in (*guard.losses, *guard.norms))


def test_the_border_of_a_spike():
    """6 deviations of 1.4826 x 0.1 above the median of 3, and of 1."""
    border = 6 * 1.4826 * 0.1
    assert quiet_guard().accepts(1, 3 + border - 1e-6, 1.0)
    assert not quiet_guard().accepts(1, 3 + border + 1e-6, 1.0)
    assert quiet_guard().accepts(1, 3.0, 1 + border - 1e-6)
    assert not quiet_guard().accepts(1, 3.0, 1 + border + 1e-6)
    assert quiet_guard().accepts(1, -100.0, 0.0)  # low is no spike
    assert quiet_guard(threshold=0.0).accepts(1, 1e9, 1e9)  # off
    assert quiet_guard(steps=FEWEST - 2).accepts(1, 1e9, 1e9)  # too few to judge by
    assert not quiet_guard(steps=FEWEST).accepts(1, 1e9, 1e9)


def test_a_very_quiet_run_has_a_floor():
    guard = Guard(5.0, 3)
    assert all(guard.accepts(step, 2.0, 1.0) for step in range(50))
    assert guard.accepts(50, 2.0 * 1.049, 1.0)
    assert not guard.accepts(51, 2.0 * 1.051, 1.0)


def test_spikes_do_not_become_normal():
    """What is left out is not taken into the window, however often it comes."""
    guard = quiet_guard(max_skipped=WINDOW)
    assert not any(guard.accepts(step, 50.0, 1.0) for step in range(WINDOW))
    assert guard.accepts(WINDOW, 3.0, 1.0)


def test_a_falling_noisy_loss_is_let_through(seed):
    """A run as they are: the loss falls from 8 to 3, the norm is noisy; 6 deviations of normal noise are never seen."""
    noise = random.Random(seed)
    guard = Guard(6.0, 0)
    for step in range(2000):
        loss, norm = 3 + 5 * math.exp(-step / 300) + noise.gauss(0, 0.05), abs(noise.gauss(0.5, 0.05))
        assert guard.accepts(step, loss, norm)
    assert 4000 * (1 - NormalDist().cdf(6)) < 1e-4  # how often such a test may fail, were the deviation exact


def test_too_many_stop_the_run():
    guard = quiet_guard(max_skipped=2)
    assert not guard.accepts(1000, math.nan, 1.0)
    assert guard.accepts(1001, 3.0, 1.0)
    assert not guard.accepts(1002, 1e3, 1.0)
    with pytest.raises(UserError, match=r"step 1003: the gradient norm is inf; 3 steps .*--max_skipped_steps 2"):
        guard.accepts(1003, 3.0, math.inf)
    with pytest.raises(UserError, match="--max_skipped_steps 0"):
        Guard(0.0, 0).accepts(0, math.nan, 1.0)


def test_a_resumed_guard_decides_the_same(seed):
    noise = random.Random(seed)
    numbers = [(noise.gauss(3, 0.3), noise.choice([noise.gauss(1, 0.2), 20.0])) for _ in range(300)]
    whole, first = Guard(3.0, 300), Guard(3.0, 300)
    expected = [whole.accepts(step, *pair) for step, pair in enumerate(numbers)]
    found = [first.accepts(step, *pair) for step, pair in enumerate(numbers[:170])]
    second = Guard(3.0, 300)
    second.load(json.loads(json.dumps(first.state())))
    found += [second.accepts(170 + step, *pair) for step, pair in enumerate(numbers[170:])]
    assert found == expected
    assert second.state() == whole.state()
    assert 0 < whole.skipped < 300
