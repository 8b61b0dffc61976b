import pytest
import torch
from rhapsode import RhapsodeForQuestionAnswering, RhapsodeForSequenceClassification, RhapsodeForTokenClassification

PADDED = 5e-6  # in float64 but for the rotary angles, which padding on the left shifts


@pytest.mark.parametrize("labels", [1, 3])
def test_scores_do_not_depend_on_padding_or_batch(name, labels, build, ids, assert_near):
    model = build(name, RhapsodeForSequenceClassification, num_labels=labels).double()
    texts = [ids(1, length) for length in (4, 9, 12)]
    with torch.no_grad():
        expected = torch.cat([model(text).logits for text in texts])
        assert expected.shape == (3, labels)
        for left in (False, True):
            batch, mask = torch.zeros(3, 15, dtype=torch.long), torch.zeros(3, 15, dtype=torch.long)
            for row, text in enumerate(texts):
                where = slice(-text.shape[1], None) if left else slice(text.shape[1])
                batch[row, where], mask[row, where] = text[0], 1
            assert_near(model(batch, attention_mask=mask).logits, expected, PADDED)
            order = torch.tensor([2, 0, 1])
            assert_near(model(batch[order], attention_mask=mask[order]).logits, expected[order], PADDED)


def test_the_score_is_read_at_the_end_of_the_text_also_where_it_ends_on_eos(build, ids):
    model = build("rhapsode-10m", RhapsodeForSequenceClassification, num_labels=1)
    text = torch.cat((ids(1, 5), torch.full((1, 1), model.config.eos_token_id)), 1)
    padded = torch.cat((text, torch.zeros(1, 4, dtype=torch.long)), 1)
    hidden = model.model(text).last_hidden_state[:, -1]
    torch.testing.assert_close(model(padded, attention_mask=(padded != 0).long()).logits, model.score(hidden))


def test_losses_and_shapes(preset, build, ids):
    x = ids(2, 7)
    tokens = build(preset, RhapsodeForTokenClassification, num_labels=4)
    out = tokens(x, labels=torch.randint(4, (2, 7)))
    assert out.logits.shape == (2, 7, 4)
    out.loss.backward()
    answers = build(preset, RhapsodeForQuestionAnswering)
    out = answers(x, start_positions=torch.tensor([1, 2]), end_positions=torch.tensor([3, 4]))
    assert out.start_logits.shape == out.end_logits.shape == (2, 7)
    out.loss.backward()
    sequences = build(preset, RhapsodeForSequenceClassification, num_labels=3)
    sequences(x, labels=torch.tensor([0, 2])).loss.backward()
    for model in (tokens, answers, sequences):
        assert all(p.grad is not None for p in model.parameters())
