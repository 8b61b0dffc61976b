"""Which tokens stand in which row: nothing lost, nothing twice, no more rows than the plain algorithm needs.

Oracles: best-fit decreasing and the layout of a row written as loops over single items, and a model's loss on each
document alone.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.modeling import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.data.layout import BestFitRows, ConcatenatedRows, shares
from rhapsode.recipes.data.mixture import collate
from rhapsode.recipes.data.packing import best_fit_decreasing, plan_best_fit
from rhapsode.recipes.data.tokens import IGNORED, TokenStream
from rhapsode.recipes.training.attention import set_attention

PAD = 10**6  # no id of a document
# The model is float64, but transformers computes the loss of the logits in float32, and sums in another order.
SUM_TOLERANCE = 2e-6

lengths_of_documents = st.lists(st.integers(1, 12), min_size=1, max_size=12)
lists_of_streams = st.lists(lengths_of_documents, min_size=1, max_size=4)


def streams_of(lists: list[list[int]]) -> list[TokenStream]:
    """Documents whose token ids are 0, 1, 2, ... throughout all streams, so that each id says where it was."""
    streams, first = [], 0
    for lengths in lists:
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        ids = np.arange(first, first + sum(lengths), dtype=np.uint32)
        streams.append(TokenStream(ids, starts, np.asarray(lengths, np.int64)))
        first += sum(lengths)
    return streams


def best_fit_rows(lists: list[list[int]], length: int) -> BestFitRows:
    streams = streams_of(lists)
    return BestFitRows(streams, [plan_best_fit(s.starts, s.num_tokens, length) for s in streams], length, PAD)


def plain_best_fit_decreasing(sizes: list[int], capacity: int) -> list[int]:
    """The free room of each bin, sorted."""
    gaps = []
    for size in sorted(sizes, reverse=True):
        room = [(gap, i) for i, gap in enumerate(gaps) if gap >= size]
        if room:
            gaps[min(room)[1]] -= size
        else:
            gaps.append(capacity - size)
    return sorted(gaps)


# Best fit


@given(st.integers(1, 30), st.data())
def test_bins_are_those_of_the_plain_algorithm(capacity, data):
    sizes = data.draw(st.lists(st.integers(1, capacity), max_size=80))
    bin_of, count = best_fit_decreasing(np.asarray(sizes, np.int64), capacity)
    filled = np.zeros(count, np.int64)
    np.add.at(filled, bin_of, np.asarray(sizes, np.int64))
    assert sorted((capacity - filled).tolist()) == plain_best_fit_decreasing(sizes, capacity)


@given(lists_of_streams, st.integers(1, 15))
def test_every_token_is_in_one_row(lists, length):
    rows = best_fit_rows(lists, length)
    found = np.concatenate([rows.row(i)["input_ids"] for i in range(len(rows))])
    assert len(found) == len(rows) * length
    assert sorted(found[found != PAD].tolist()) == list(range(sum(map(sum, lists))))


@given(lists_of_streams, st.integers(1, 15))
def test_only_documents_longer_than_a_row_are_cut(lists, length):
    """And those into pieces of a whole row, but for the rest."""
    rows = best_fit_rows(lists, length)
    documents, first = [], 0
    for size in (size for lengths in lists for size in lengths):
        documents.append(range(first, first + size))
        first += size
    expected = [tuple(d[i : i + length]) for d in documents for i in range(0, len(d), length)]
    assert sorted(piece for i in range(len(rows)) for piece in pieces_of(rows.row(i))) == expected


def pieces_of(row: dict[str, np.ndarray]) -> list[tuple[int, ...]]:
    """The ids between the places where positions start again, without padding."""
    borders = [*np.flatnonzero(row["position_ids"] == 0).tolist(), len(row["input_ids"])]
    pieces = [tuple(row["input_ids"][a:b].tolist()) for a, b in pairwise(borders)]
    return [piece for piece in pieces if PAD not in piece]


@given(lists_of_streams, st.integers(1, 15))
def test_positions_labels_and_padding_against_a_loop(lists, length):
    rows = best_fit_rows(lists, length)
    for i in range(len(rows)):
        row = {key: value.tolist() for key, value in rows.row(i).items()}
        joins = np.concatenate([stream.starts + stream.ids[0] for stream in rows.streams]).tolist()
        for t, (token, position, label) in enumerate(zip(*row.values(), strict=True)):
            before = row["input_ids"][t - 1] if t else None
            goes_on = t and (token == before == PAD or (token == before + 1 and token not in joins))
            assert position == (row["position_ids"][t - 1] + 1 if goes_on else 0)
            assert label == (token if goes_on and token != PAD else IGNORED)


@given(lists_of_streams, st.integers(1, 15))
def test_counts_against_loops(lists, length):
    sizes = [size for lengths in lists for size in lengths]
    best, total = best_fit_rows(lists, length), sum(sizes)
    expected = {"documents": len(sizes), "bytes": total, "rows": len(best), "tokens": total}
    padding = sum(int((best.row(i)["input_ids"] == PAD).sum()) for i in range(len(best)))
    assert best.counts() == expected | {"padding": padding, "cut": sum(size > length for size in sizes)}
    assert shares(best.counts())["padding_share"] == padding / (len(best) * length)
    if total >= length:
        rows = ConcatenatedRows(streams_of(lists), length)
        cut, first = 0, 0
        for size in sizes:
            cut += first < len(rows) * length and first // length != (first + size - 1) // length
            first += size
        expected |= {"rows": total // length, "tokens": total // length * length}
        assert rows.counts() == expected | {"padding": 0, "cut": cut}


def test_best_fit_cuts_few_and_pads_little(seed):
    """What it is for: lengths as in real text, against concatenation."""
    lengths = np.minimum(np.random.default_rng(seed).lognormal(5.5, 1.2, 20_000).astype(int) + 1, 50_000).tolist()
    best = shares(best_fit_rows([lengths], 1024).counts())
    joined = shares(ConcatenatedRows(streams_of([lengths]), 1024).counts())
    assert best["padding_share"] < 0.002
    assert best["cut_share"] < 0.2
    assert best["cut_share"] < joined["cut_share"] / 2


# Concatenation over several streams


@given(lists_of_streams, st.integers(1, 15))
def test_streams_are_cut_up_as_if_they_were_one(lists, length):
    total = sum(map(sum, lists))
    if total < length:
        with pytest.raises(ValueError, match=f"{total} tokens, fewer than one sequence of max_length={length}"):
            ConcatenatedRows(streams_of(lists), length)
        return
    several = ConcatenatedRows(streams_of(lists), length)
    one = ConcatenatedRows(streams_of([[size for lengths in lists for size in lengths]]), length)
    assert len(several) == len(one) == total // length
    for i in range(len(one)):
        for key, value in one.row(i).items():
            assert several.row(i)[key].tolist() == value.tolist(), key


# Documents of a row do not see each other


@pytest.mark.parametrize("attention", ["eager", "sdpa", "blocked"])
def test_the_loss_of_padded_rows_is_the_sum_over_the_pieces(seed, attention):
    config = RhapsodeConfig.from_preset("rhapsode-10m-tiny", vocab_size=50, initializer_range=0.3)
    model = RhapsodeForCausalLM(config).double().eval()
    set_attention(model, attention)
    rng = np.random.default_rng(seed)
    lengths, length = rng.integers(2, 30, 12), 16
    stream = streams_of([lengths.tolist()])[0]
    stream.ids = rng.integers(1, 50, lengths.sum(), dtype=np.uint32)
    rows = BestFitRows([stream], [plan_best_fit(stream.starts, stream.num_tokens, length)], length, pad_id=0)
    batch = collate([rows.row(i) for i in range(len(rows))])
    assert (batch["labels"] == IGNORED).sum() > len(lengths)  # there is padding
    one = torch.tensor(1)
    packed = model(**batch, use_cache=False, num_items_in_batch=one).loss
    pieces = [d[i : i + length].astype(np.int64) for d in stream.documents() for i in range(0, len(d), length)]
    ids = [torch.from_numpy(piece)[None] for piece in pieces if len(piece) > 1]
    alone = sum(model(input_ids=i, labels=i, use_cache=False, num_items_in_batch=one).loss for i in ids)
    torch.testing.assert_close(packed, alone, rtol=SUM_TOLERANCE, atol=0)
