"""Memorisation: against greedy `generate`, on a model that knows some texts by heart."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.evaluation.likelihood import Opened
from rhapsode.recipes.evaluation.memorization import draw_windows, matching_lengths, memorization
from rhapsode.recipes.evaluation.report import differences
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.options.evaluate import EvaluateOptions
from rhapsode.tokenization.training import train_tokenizer
from transformers import AutoTokenizer


@pytest.fixture
def opened(tokenizer_directory, seed):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    config = RhapsodeConfig.from_preset("rhapsode-10m-tiny", vocab_size=len(tokenizer), initializer_range=0.2)
    return Opened(RhapsodeForCausalLM(config).eval(), tokenizer, 128, 4)


def test_against_greedy_generation(opened, seed):
    """Windows that the model wrote itself match to the end; those with a token changed match up to it."""
    generator = torch.Generator().manual_seed(seed)
    prefixes = torch.randint(10, len(opened.tokenizer), (6, 8), generator=generator)
    opened.model.double()  # so that two tokens are not as likely as each other but for rounding
    windows = opened.model.generate(prefixes, max_new_tokens=12, min_new_tokens=12, do_sample=False, eos_token_id=None)
    changed = windows.clone()
    for row in range(6):
        changed[row, 8 + row] = (changed[row, 8 + row] + 1) % len(opened.tokenizer)
    lengths = matching_lengths(opened, [*windows.numpy(), *changed.numpy()], 8)
    assert lengths.tolist() == [12] * 6 + [0, 1, 2, 3, 4, 5]


def test_windows_are_drawn_from_the_split_alone(opened, tmp_path):
    """One of each document, with as many tokens as asked for, the same for the same seed."""
    texts = [f"number {i} " + f"{i} and " * 40 for i in range(300)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, "short"]))
    options = EvaluateOptions(dataset=[str(data)], memorization=20, prefix_tokens=10, continuation_tokens=6, seed=3)
    train, again = (draw_windows(opened.tokenizer, options, "train") for _ in range(2))
    assert [w.document for w in train] == [w.document for w in again]
    held_out = {w.document for w in draw_windows(opened.tokenizer, options, "validation")}
    assert len({w.document for w in train}) == 20 and all(len(w.ids) == 16 for w in train)
    assert held_out and not held_out & {w.document for w in train}
    assert len({tuple(w.ids) for w in train}) > 15
    other = draw_windows(opened.tokenizer, EvaluateOptions(**{**vars(options), "seed": 4}), "train")
    assert [w.document for w in other] != [w.document for w in train]


def test_the_figures(opened, corpus, tmp_path):
    """For both splits the share of whole windows and the mean length."""
    short = str(tmp_path / "short.txt")
    Path(short).write_text("a few words\n" * 3)
    options = EvaluateOptions(dataset=[str(corpus)], memorization=8, prefix_tokens=8, continuation_tokens=20)
    found = memorization(opened, options)
    assert list(found) == ["memorization, training text", "memorization, held-out text"]
    for measures in found.values():
        verbatim, matching = measures["verbatim"], measures["matching_tokens"]
        assert 1 <= len(verbatim.numerators) <= 8
        assert verbatim.numerators.tolist() == (matching.numerators == 20).tolist()
    with pytest.raises(UserError, match="more than the 128 tokens that the model reads at once"):
        memorization(opened, EvaluateOptions(memorization=1, prefix_tokens=100, continuation_tokens=29))
    with pytest.raises(UserError, match=r"no document of the (train|validation) split has 128 tokens"):
        memorization(
            opened, EvaluateOptions(dataset=[short], memorization=1, prefix_tokens=100, continuation_tokens=28)
        )


def test_windows_of_different_tokenizers_are_not_compared(opened, corpus):
    texts = [path.read_text() for path in corpus.iterdir()]
    other = opened._replace(tokenizer=train_tokenizer(texts, vocab_size=300, show_progress=False))
    options = EvaluateOptions(dataset=[str(corpus)], memorization=1, prefix_tokens=4, continuation_tokens=4)
    found = memorization(opened, options)
    assert differences(found, memorization(opened, options), options).keys() == found.keys()
    assert differences(found, memorization(other, options), options) == {}


@pytest.mark.slow
def test_a_text_learned_by_heart_is_found(opened, seed):
    """Overfitted on some windows, the model continues these word for word, and others not."""
    rng = np.random.default_rng(seed)
    known, unknown = rng.integers(10, len(opened.tokenizer), (2, 6, 24))
    optimizer, ids = torch.optim.AdamW(opened.model.parameters(), lr=3e-3), torch.tensor(known)
    for _ in range(200):
        opened.model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    lengths = matching_lengths(opened, [*known, *unknown], 8)
    assert (lengths[:6] == 16).all() and (lengths[6:] < 16).all()
