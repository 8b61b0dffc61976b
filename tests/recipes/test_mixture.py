"""The endless sequence of rows: shares, epochs, an order that depends on the number of a row and the seed alone.

Oracles: a count of what was drawn, and an uninterrupted reader.
"""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from rhapsode.recipes.data.layout import ConcatenatedRows
from rhapsode.recipes.data.mixture import Schedule, ShuffledRows
from rhapsode.recipes.data.rows import drawn_sources
from rhapsode.recipes.data.tokens import TokenStream
from rhapsode.recipes.options.base import UserError

LENGTH = 3
weight_lists = st.lists(st.floats(0, 100), min_size=1, max_size=5)


def source_of(num_rows: int, first: int = 0) -> ConcatenatedRows:
    """Rows of `LENGTH` tokens whose ids are the number of the row, from `first` on."""
    ids = np.repeat(np.arange(first, first + num_rows, dtype=np.uint32), LENGTH)
    starts = np.arange(num_rows) * LENGTH
    return ConcatenatedRows([TokenStream(ids, starts, np.ones(num_rows, np.int64))], LENGTH)


def numbers(rows: ShuffledRows, start: int, count: int) -> list[int]:
    return rows.batch(start, count)["input_ids"][:, 0].tolist()


# Shares


@given(weight_lists, st.integers(0, 10**12))
def test_shares_are_exact_at_any_row(weights, start):
    """Each source has given its share to within less than a row for each source, early and late."""
    assume(sum(weights) > 0)
    schedule, total = Schedule(weights), sum(weights)
    drawn = [schedule.locate(n) for n in range(start, start + 60)]
    for n, (source, before) in enumerate(drawn, start):
        assert weights[source] > 0
        assert abs(before - n * weights[source] / total) <= len(weights) + 1e-3  # the float product is rounded too
    for source in range(len(weights)):
        indexes = [before for s, before in drawn if s == source]
        assert indexes == list(range(indexes[0], indexes[0] + len(indexes))) if indexes else True


def test_three_to_one():
    schedule = Schedule([3, 1])
    assert [schedule.locate(n) for n in range(8)] == [(0, 0), (0, 1), (1, 0), (0, 2), (0, 3), (0, 4), (1, 1), (0, 5)]


def test_tenths_are_no_binary_fractions():
    schedule = Schedule([0.1, 0.2, 0.7])
    assert Counter(schedule.locate(n)[0] for n in range(10_000)) == {0: 1000, 1: 2000, 2: 7000}


# Epochs and order


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_each_epoch_is_a_permutation(num_rows, seed):
    rows = ShuffledRows([source_of(num_rows)], [1], seed)
    for epoch in range(3):
        assert sorted(numbers(rows, epoch * num_rows, num_rows)) == list(range(num_rows))


def test_each_source_has_its_own_epochs(seed):
    """Of 400 rows three quarters are from 20 rows, 15 times over, one quarter from 50, twice over."""
    rows = ShuffledRows([source_of(20), source_of(50, first=100)], [3, 1], seed)
    assert len(rows) == 70
    drawn = numbers(rows, 0, 400)
    assert Counter(drawn) == {**dict.fromkeys(range(20), 15), **dict.fromkeys(range(100, 150), 2)}
    for part, size in (([n for n in drawn if n < 100], 20), ([n for n in drawn if n >= 100], 50)):
        epochs = [tuple(part[i : i + size]) for i in range(0, len(part), size)]
        assert len(set(epochs)) == len(epochs)  # two of 20! orders agree by chance: never
        assert all(len(set(epoch)) == size for epoch in epochs)


def test_epochs_sources_and_seeds_differ(seed):
    n = 60
    orders = [tuple(numbers(ShuffledRows([source_of(n)], [1], s), e * n, n)) for s in (seed, seed + 1) for e in (0, 1)]
    both = ShuffledRows([source_of(n), source_of(n, first=n)], [1, 1], seed)
    drawn = numbers(both, 0, 2 * n)
    orders += [tuple(i % n for i in drawn if i // n == source) for source in (0, 1)]
    assert len(set(orders)) == 5  # the first source of two is ordered as if it were alone


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=3),
    st.integers(0, 10**10),
    st.lists(st.integers(1, 7), min_size=1, max_size=8),
)
def test_the_order_depends_on_the_number_alone(sizes, start, batches):
    """Whoever comes in at any row, with any batch sizes, sees what an uninterrupted reader sees there."""

    def rows() -> ShuffledRows:
        return ShuffledRows([source_of(n) for n in sizes], range(1, len(sizes) + 1), 7)

    whole = rows().batch(start, sum(batches))
    resumed, parts = rows(), []
    resumed.load_state_dict(rows().state_dict())
    for size in batches:
        parts.append(resumed.batch(start, size))
        start += size
    for key, value in whole.items():
        assert torch.equal(value, torch.cat([part[key] for part in parts]))
        assert value.shape == (sum(batches), LENGTH)
        assert value.dtype == torch.int64


def test_statistics_are_those_of_what_is_drawn():
    """One source of 10 rows without a cut, drawn three times as often as one of 6 rows in which every document is."""
    cut = ConcatenatedRows([TokenStream(np.zeros(18, np.uint32), np.arange(3) * 6, np.full(3, 9))], LENGTH)
    statistics = ShuffledRows([source_of(10), cut], [3, 1], 0).statistics
    assert statistics.pop("cut_share") == pytest.approx(0.25 * 3 / 6 / (0.75 + 0.25 * 3 / 6))  # documents for each row
    assert statistics == {"documents": 13, "bytes": 10 + 27, "rows": 16, "tokens": 48, "padding_share": 0.0}


# Weights that are refused


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ([1], "--dataset_weights 1: 1 for 2 of --dataset; give one for each"),
        ([1, 2, 3], "3 for 2 of --dataset"),
        ([1, -1], "none may be negative or infinite"),
        ([0, 0], "one must be above 0"),
        ([1, float("nan")], "none may be negative or infinite"),
        ([1, float("inf")], "none may be negative or infinite"),
    ],
)
def test_weights_that_are_refused(weights, reason):
    with pytest.raises(UserError, match=reason):
        drawn_sources(["a", "b"], weights)


def test_sources_without_a_weight_are_left_out():
    assert drawn_sources(["a", "b", "c"], [1, 0, 2.5]) == (["a", "c"], [1, 2.5])
    assert drawn_sources(["a", "b"], []) == (["a", "b"], [])
