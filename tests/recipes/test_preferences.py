"""Pairs of answers: which is better is what the judge says, and what each kind is made of can be read off it."""

import pytest
from rhapsode.recipes.alignment.judge import ABSTENTION, judge
from rhapsode.recipes.alignment.preferences import FOR_POLICY, KINDS, Pair, pairs, sampled_pairs
from rhapsode.recipes.alignment.questions import Question, questions
from rhapsode.recipes.data.words import words_of

ANSWER, DECOY = "Copy one file to another place now.", "Return the list of open windows."
REAL = Question("a.b", "What does `a.b` do?", ANSWER, True, "function", DECOY)
INVENTED = Question("a.c", "What does `a.c` do?", ABSTENTION, False, "function", DECOY)


def test_the_pairs_of_a_real_name():
    found = pairs(REAL)
    assert [pair.kind for pair in found] == ["another", "truncated", "invented", "wrong_abstention"]
    assert {pair.chosen for pair in found} == {ANSWER}
    rejected = {pair.kind: pair.rejected for pair in found}
    assert rejected["another"] == DECOY
    assert rejected["invented"] == "Copy one file to of open windows."  # four of seven words, three of six
    assert rejected["wrong_abstention"] == ABSTENTION


def test_the_pair_of_an_invented_name():
    assert pairs(INVENTED) == [Pair("missing_abstention", ABSTENTION, DECOY)]


@pytest.mark.parametrize("seed", range(20))
def test_truncated_answers_are_a_third_to_two_thirds(seed):
    (cut,) = (pair.rejected for pair in pairs(REAL, seed) if pair.kind == "truncated")
    assert ANSWER.startswith(cut + " ")
    assert 2 <= len(cut.split()) <= 5  # of seven words


def test_truncation_depends_on_the_seed():
    assert len({pairs(REAL, seed)[1].rejected for seed in range(20)}) > 1


def test_an_answer_that_would_be_right_is_not_rejected():
    """The decoy ends as the answer does: spliced they give the answer, or the decoy."""
    same_end = REAL._replace(answer="Copy the open file.", decoy="Close an open file.")
    assert "invented" not in [pair.kind for pair in pairs(same_end)]
    same_start = REAL._replace(answer="Copy the open file.", decoy="Copy the shut door.")
    assert "invented" not in [pair.kind for pair in pairs(same_start)]
    none = REAL._replace(decoy="")
    assert [pair.kind for pair in pairs(none)] == ["truncated", "wrong_abstention"]


def test_the_judge_agrees_with_every_pair(seed):
    """Chosen answers get the full score. A rejected one gets less; nothing else would teach what the judge measures."""
    real = invented = 0
    for question in questions("test", seed, 1000):
        for pair in pairs(question, seed):
            assert judge(question.answer, question.is_real, pair.chosen) == 1.0
            assert judge(question.answer, question.is_real, pair.rejected) < 1.0, pair
            assert words_of(pair.chosen) != words_of(pair.rejected)
            real, invented = real + question.is_real, invented + (not question.is_real)
            assert pair.kind in KINDS
    assert real > 3 * invented > 0


def test_pairs_that_hurt_a_policy_are_left_out():
    assert set(KINDS) - set(FOR_POLICY) == {"another"}


# Pairs of a model's own answers

ROWS = [
    {"prompt": [{"role": "user", "content": "real"}], "reference": "Copy a file.", "is_real": True},
    {"prompt": [{"role": "user", "content": "invented"}], "reference": ABSTENTION, "is_real": False},
]


def test_sampled_pairs_by_hand():
    """Scores: real name 1 (reference), .5 (Copy.), .2 (abstention), 0 (Move it.); invented 1 and 0."""
    found = sampled_pairs(ROWS, [["Copy.", " Copy. ", "Move it."], ["Move it.", "Move it."]], per_prompt=10)
    texts = [(row["prompt"][0]["content"], row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in found]
    full, half, none, wrong = "Copy a file.", "Copy.", ABSTENTION, "Move it."
    expected = {
        (a, b) for a, b in [(full, half), (full, none), (full, wrong), (half, none), (half, wrong), (none, wrong)]
    }
    assert {(a, b) for prompt, a, b in texts if prompt == "real"} == expected
    assert [(a, b) for prompt, a, b in texts if prompt == "invented"] == [(ABSTENTION, wrong)]
    assert {row["kind"] for row in found} == {"sampled"}


def test_sampled_pairs_keep_a_margin_and_a_limit(seed):
    samples = [["Copy.", "Move it."], ["Move it."]]
    apart = sampled_pairs(ROWS[:1], samples[:1], margin=0.4, per_prompt=10)
    scores = [tuple(judge("Copy a file.", True, row[n][0]["content"]) for n in ("chosen", "rejected")) for row in apart]
    assert sorted(scores) == [(0.5, 0.0), (1.0, 0.0), (1.0, 0.2), (1.0, 0.5)]
    two = sampled_pairs(ROWS, samples, seed, per_prompt=2)
    assert [row["prompt"][0]["content"] for row in two] == ["real", "real", "invented"]
    assert two == sampled_pairs(ROWS, samples, seed, per_prompt=2)
    draws = {str(sampled_pairs(ROWS[:1], samples[:1], each, per_prompt=2)) for each in range(20)}
    assert len(draws) > 1
    with pytest.raises(ValueError, match="zip"):
        sampled_pairs(ROWS, samples[:1])
