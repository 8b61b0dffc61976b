"""Intervals: closed forms, and that they hold the truth about as often as they say."""

import numpy as np
import pytest
from rhapsode.recipes.evaluation.measured import Values, shares
from rhapsode.recipes.evaluation.report import command_line
from rhapsode.recipes.options.evaluate import EvaluateOptions


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 7), (50, 100)])
def test_a_share_has_wilsons_interval(k, n):
    """(p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)"""
    found = shares([True] * k + [False] * (n - k)).measured(100, 0)
    p, z = k / n, 1.959963984540054
    middle, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    assert found.value == pytest.approx(p)
    assert (found.low, found.high) == pytest.approx(
        ((middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)), abs=1e-9
    )
    assert (found.count, found.unit) == (n, "examples")


def test_a_ratio_has_an_interval_as_wide_as_its_standard_error(seed):
    """By the delta method, sd(a_i - r b_i) / mean(b) / sqrt(n); with 400 documents the bootstrap is close to it."""
    rng = np.random.default_rng(seed)
    sizes = rng.uniform(50, 150, 400)
    nats = sizes * rng.normal(2, 0.5, 400)
    found = Values(nats, sizes, "documents").measured(2000, seed)
    ratio = nats.sum() / sizes.sum()
    error = (nats - ratio * sizes).std() / sizes.mean() / 20
    assert found.value == pytest.approx(ratio)
    assert found.low < ratio < found.high
    assert (found.high - found.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.25)
    assert found == Values(nats, sizes, "documents").measured(2000, seed)  # the same draws


def test_few_or_no_examples_have_no_interval():
    one = Values(np.array([2.0]), np.array([4.0])).measured(100, 0)
    assert (one.value, one.low, one.high, one.count) == (0.5, None, None, 1)
    none = Values(np.array([0.0]), np.array([0.0])).measured(100, 0)
    assert np.isnan(none.value) and none.count == 0


def test_a_difference_is_paired(seed):
    """What is hard for both models does not widen the interval of their difference."""
    rng = np.random.default_rng(seed)
    hard, sizes = rng.uniform(100, 900, 200), np.full(200, 100.0)
    first, second = Values(hard, sizes), Values(hard - 1, sizes)
    difference = first.minus(second).measured(500, seed)
    assert difference.value == pytest.approx(0.01) and difference.high - difference.low < 1e-9
    alone = first.measured(500, seed)
    assert alone.high - alone.low > 0.1
    right = shares([True, True, False]).minus(shares([True, False, True])).measured(100, seed)
    assert right.value == 0 and -1 <= right.low <= 0 <= right.high <= 1


def test_the_command_line_repeats_the_options():
    options = EvaluateOptions(model="a b", tasks=["x", "y"], bf16=True, num_fewshot=0, json=True)
    assert command_line("evaluate", options) == (
        "rhapsode evaluate --model 'a b' --bf16 --tasks x y --num_fewshot 0 --json"
    )
