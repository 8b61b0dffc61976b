"""Documents packed in one row, told apart by positions that start again, never see each other."""

import itertools

import pytest
import torch
from rhapsode.modeling.caches import CACHE

PACKED = 5e-6  # float32 sums over a longer row
LENGTHS = (5, 9, 1, 7)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_packed_documents_are_separate_documents_whatever_the_flags(name, kernel, build, ids, assert_near):
    model = build(name)
    model.set_attn_implementation(kernel)
    rows = [[ids(1, length) for length in LENGTHS] for _ in range(2)]
    with torch.no_grad():
        expected = torch.cat([torch.cat([model(document).logits for document in row], 1) for row in rows])
        x = torch.cat([torch.cat(row, 1) for row in rows])
        positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
        flags = itertools.product((None, torch.ones_like(x)), (False, True), (positions, positions.expand(2, -1)))
        for mask, use_cache, position_ids in flags:
            out = model(x, attention_mask=mask, use_cache=use_cache, position_ids=position_ids)
            assert_near(out.logits, expected, PACKED)
            assert (out.get(CACHE) is not None) == use_cache


def test_a_packed_row_may_end_in_padding(name, build, ids, assert_near):
    model, documents = build(name), [ids(1, length) for length in LENGTHS]
    pad = torch.zeros(1, 4, dtype=torch.long)
    x = torch.cat([*documents, pad], 1)
    positions = torch.cat([*(torch.arange(length) for length in LENGTHS), torch.zeros(4, dtype=torch.long)])[None]
    mask = torch.ones_like(x)
    mask[:, -4:] = 0
    with torch.no_grad():
        expected = torch.cat([model(document).logits for document in documents], 1)
        assert_near(model(x, attention_mask=mask, position_ids=positions).logits[:, :-4], expected, PACKED)


def test_the_loss_of_packed_documents_is_theirs(preset, build, ids, assert_near):
    """With the label at each join left out, as every collator of ours does."""
    model, documents = build(preset), [ids(1, length) for length in LENGTHS]
    x, positions = torch.cat(documents, 1), torch.cat([torch.arange(length) for length in LENGTHS])[None]
    labels = torch.where(positions == 0, -100, x)
    targets = sum(length - 1 for length in LENGTHS)
    alone = sum(model(d, labels=d).loss * (d.shape[1] - 1) for d in documents if d.shape[1] > 1) / targets
    assert_near(model(x, labels=labels, position_ids=positions).loss, alone, PACKED)
