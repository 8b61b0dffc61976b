"""The judge against what can be counted by hand, and ROUGE-L against all subsequences and the `rouge-score` package."""

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.recipes.alignment.judge import ABSTENTION, abstains, judge, judge_reward, measure, rouge_l
from rhapsode.recipes.data.words import words_of

ROUNDING = 1e-12  # 2 L / (m + n) against 2 P R / (P + R) in double precision
texts = st.lists(st.sampled_from(["a", "b", "c"]), max_size=7).map(" ".join)

# ROUGE-L


@pytest.mark.parametrize(
    ("reference", "answer", "score"),
    [
        ("police killed the gunman", "police kill the gunman", 3 / 4),  # the examples of Lin's paper
        ("police killed the gunman", "the gunman kill police", 2 / 4),
        ("Copy a file.", "copy, a FILE", 1.0),
        ("Copy a file.", "Copy", 2 / 4),
        ("Copy a file.", "a file a copy", 2 * 2 / 7),
        ("Copy a file.", "move it", 0.0),
        ("Copy a file.", "", 0.0),
        ("os.path_x", "os path x", 1.0),
        ("Скопировать файл.", "скопировать", 2 / 3),
    ],
)
def test_rouge_l_by_hand(reference, answer, score):
    assert rouge_l(reference, answer) == pytest.approx(score, abs=ROUNDING)


@given(texts, texts)
def test_rouge_l_is_the_longest_of_all_subsequences(reference, answer):
    def subsequences(words):
        return {c for n in range(len(words) + 1) for c in combinations(words, n)}

    a, b = words_of(reference), words_of(answer)
    longest = max(map(len, subsequences(a) & subsequences(b)))
    expected = 2 * longest / (len(a) + len(b)) if a and b else 0.0
    assert rouge_l(reference, answer) == pytest.approx(expected, abs=ROUNDING)
    assert rouge_l(answer, reference) == rouge_l(reference, answer)


@given(st.text(st.characters(codec="ascii"), max_size=60), st.text(st.characters(codec="ascii"), max_size=60))
def test_rouge_l_of_ascii_is_that_of_the_package(reference, answer):
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    assert rouge_l(reference, answer) == pytest.approx(scorer.score(reference, answer)["rougeL"].fmeasure, abs=ROUNDING)


def test_rouge_l_of_sentences_is_that_of_the_package(seed):
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    text = "Return the name of a file, or None if there isn't one; see os.path.join (2.0) and `open_all`."
    vocabulary = text.split()
    for _ in range(200):
        reference, answer = (" ".join(random.choices(vocabulary, k=random.randint(0, 12))) for _ in range(2))
        expected = scorer.score(reference, answer)["rougeL"].fmeasure
        assert rouge_l(reference, answer) == pytest.approx(expected, abs=ROUNDING)


# Abstention


@pytest.mark.parametrize(
    "answer",
    [
        ABSTENTION,
        "I don't know",
        " i DON\N{RIGHT SINGLE QUOTATION MARK}T know.\n",
        "I do not know.",
        "I don't know what `shutil.fnmatch` does.",
        "I don't know that name!",
    ],
)
def test_abstentions(answer):
    assert abstains(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I don't know, but it returns a list.",
        "I don't know. Return a list.",
        "I don't know but it returns a list.",
        "I don't know: return a list.",
        "I don't knowingly do that.",
        "Return a list. I don't know.",
        "Return a list.",
        "know",
    ],
)
def test_what_asserts_something_is_no_abstention(answer):
    assert not abstains(answer)


# The judge


def test_judge():
    reference = "Copy a file."
    assert judge(reference, True, "copy a file") == 1.0
    assert judge(reference, True, "Copy.") == 0.5
    assert judge(reference, True, ABSTENTION) == 0.2
    assert judge(reference, True, "Remove it.") == 0.0
    assert judge(ABSTENTION, False, ABSTENTION) == 1.0
    assert judge(ABSTENTION, False, reference) == 0.0
    assert judge(ABSTENTION, False, "You know, I don't.") == 0.0  # its words are in the reference, which is not read
    assert judge(ABSTENTION, False, "") == 0.0


@given(st.text(), st.booleans(), st.text())
def test_judge_is_between_0_and_1(reference, is_real, answer):
    assert 0 <= judge(reference, is_real, answer) <= 1


def test_judge_reward_has_the_signature_of_trl():
    prompt = [{"role": "user", "content": "?"}]
    rewards = judge_reward(
        prompts=[prompt] * 3,
        completions=[
            [{"role": "assistant", "content": "Copy."}],
            [{"role": "assistant", "content": ABSTENTION}],
            "Copy",
        ],
        completion_ids=[[1]] * 3,
        reference=["Copy a file.", ABSTENTION, "Move a file."],
        is_real=[True, False, True],
        trainer_state=None,
    )
    assert rewards == [0.5, 1.0, 0.0]
    with pytest.raises(ValueError, match="zip"):
        judge_reward([prompt], ["a", "b"], ["a"], [True])


# The measures


def test_measure_by_hand():
    """Four real names (word for word, half, wrong, abstained) and three invented (abstained twice, made up once)."""
    reference = "Copy a file."
    rows = [{"reference": reference, "is_real": True}] * 4 + [{"reference": ABSTENTION, "is_real": False}] * 3
    answers = [" Copy a\nfile. ", "Copy.", "Remove it.", ABSTENTION, ABSTENTION, "I do not know.", reference]
    assert measure(rows, answers) == {
        "judge": pytest.approx((1 + 0.5 + 0 + 0.2 + 1 + 1 + 0) / 7, abs=ROUNDING),
        "exact_on_real": 1 / 4,
        "abstention_precision": pytest.approx(2 / 3),
        "abstention_recall": pytest.approx(2 / 3),
        "n": 7,
        "n_invented": 3,
        "n_abstained": 3,
    }


def test_measure_where_there_is_nothing_to_divide_by():
    only_real = measure([{"reference": "Copy.", "is_real": True}], ["Move."])
    assert (only_real["abstention_precision"], only_real["abstention_recall"], only_real["n_abstained"]) == (0, 0, 0)
    only_invented = measure([{"reference": ABSTENTION, "is_real": False}], [ABSTENTION])
    assert only_invented["exact_on_real"] == 0
    assert only_invented["abstention_precision"] == only_invented["abstention_recall"] == only_invented["judge"] == 1


@pytest.mark.parametrize(("rows", "answers"), [(0, 0), (2, 1), (1, 2)])
def test_measure_wants_an_answer_for_each_row(rows, answers):
    with pytest.raises(ValueError, match=f"{answers} answers to {rows} rows"):
        measure([{"reference": "a", "is_real": True}] * rows, ["a"] * answers)
