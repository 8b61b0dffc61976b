"""Questions about the standard library: what nothing may leak through, and what must not exist.

Oracles: the imported modules themselves (`inspect.getdoc`, `hasattr`), for modules that may safely be imported.
"""

import functools
import importlib
import inspect
import random
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.recipes.alignment import library as library_module
from rhapsode.recipes.alignment.conversations import HELD_OUT_SYSTEM_PROMPTS, STYLES, SYSTEM_PROMPTS, conversations
from rhapsode.recipes.alignment.drawing import draw, side_of
from rhapsode.recipes.alignment.judge import ABSTENTION, abstains
from rhapsode.recipes.alignment.library import first_sentence, standard_library
from rhapsode.recipes.alignment.questions import HELD_OUT_PHRASINGS, PHRASINGS, SPLITS, questions
from rhapsode.recipes.data.words import words_of
from rhapsode.recipes.options.base import UserError

# Pure Python, quick to import, without effects; whatever C replaces in them has its docstring checked too.
SAFE = """
    argparse ast base64 calendar cmd configparser contextlib copy csv dataclasses difflib dis email.message
    email.policy filecmp fnmatch fractions getopt gettext glob gzip hmac html.parser inspect ipaddress json.decoder
    linecache logging mailbox mimetypes netrc numbers optparse pathlib pickle platform plistlib pprint queue quopri
    random sched selectors shlex shutil statistics string tarfile tempfile textwrap threading timeit tokenize
    traceback types unittest.case urllib.parse uuid warnings wave weakref zipfile
""".split()  # noqa: SIM905 (one a line would be seventy lines)


@functools.cache
def asked(split: str, size: int | None = None) -> list:
    return questions(split, size=size)


def resolve(name: str):
    """(the object that owns the last part of the name, that part) where the module is a safe one, else None."""
    parts = name.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
    module = next(prefix for prefix in prefixes if prefix in standard_library().modules)
    if module not in SAFE:
        return None
    *owners, last = name.removeprefix(f"{module}.").split(".")
    found = importlib.import_module(module)
    for part in owners:
        found = getattr(found, part)
    return found, last


# Splits


@pytest.mark.parametrize("size", [None, 400])
def test_no_object_answer_or_question_is_on_two_sides(size):
    sides = {split: asked(split, size) for split in ("train", "validation", "test")}
    for field in ("name", "prompt"):
        values = [{getattr(q, field) for q in side} for side in sides.values()]
        assert len(set().union(*values)) == sum(map(len, values)), field
    answers = [{" ".join(words_of(q.answer)) for q in side if q.is_real} for side in sides.values()]
    assert len(set().union(*answers)) == sum(map(len, answers))


def test_a_decoy_comes_from_the_same_side_and_is_no_right_answer():
    for split in SPLITS:
        answers = {q.answer for q in asked(split) if q.is_real}
        assert {q.decoy for q in asked(split)} <= answers
        assert not any(
            words_of(decoy) == words_of(answer) for answer, decoy in {(q.answer, q.decoy) for q in asked(split)}
        )


def test_the_side_of_a_name_does_not_depend_on_seed_or_size(seed):
    for split in SPLITS:
        assert sorted(questions(split, seed, 300)) == sorted(asked(split, 300))
        assert {q.name for q in asked(split, 300) if q.is_real} <= {q.name for q in asked(split) if q.is_real}


def test_rephrased_knows_what_train_knows_in_other_words():
    train, rephrased = asked("train", 300), asked("rephrased", 300)
    facts = {(q.name, q.answer) for q in train if q.is_real}
    assert {(q.name, q.answer) for q in rephrased if q.is_real} == facts
    assert {q.prompt for q in train}.isdisjoint(q.prompt for q in rephrased)
    invented = [{q.name for q in asked(split) if not q.is_real} for split in SPLITS]
    assert min(map(len, invented)) > 100
    assert len(set().union(*invented)) == sum(map(len, invented))


def test_held_out_phrasings():
    assert not set(PHRASINGS) & set(HELD_OUT_PHRASINGS)
    for split, phrasings in zip(SPLITS, (PHRASINGS, PHRASINGS, HELD_OUT_PHRASINGS, HELD_OUT_PHRASINGS), strict=True):
        assert {q.prompt.replace(f"`{q.name}`", "`{}`") for q in asked(split, 400)} == set(phrasings)


def test_the_seed_gives_the_order(seed):
    assert questions("test", seed, 300) == questions("test", seed, 300)
    assert questions("test", seed, 300) != questions("test", seed + 1, 300)


@pytest.mark.slow
def test_another_process_asks_the_same_and_imports_nothing(seed):
    """Hashes of texts and the order of sets differ between processes; questions must not."""
    program = (
        "import sys, sysconfig; from rhapsode.recipes.alignment.questions import questions, SPLITS;"
        "sysconfig.get_paths(); before = set(sys.modules);"
        f"print([questions(s, {seed}, 60) for s in SPLITS]); print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    asked, imported = done.stdout.splitlines()
    assert asked == str([questions(split, seed, 60) for split in SPLITS])
    assert imported == "[]"


def test_one_more_object_in_the_library_changes_little(seed, monkeypatch):
    """A library of another version keeps its sides, and nearly all of its invented names."""
    library = standard_library()
    before = {split: {q.name for q in asked(split)} for split in SPLITS}
    gone = random.choice(library.documented)
    smaller = library._replace(documented=[item for item in library.documented if item != gone])
    monkeypatch.setattr("rhapsode.recipes.alignment.questions.standard_library", lambda: smaller)
    for split in SPLITS:
        after = {q.name for q in questions(split)}
        # One name of its own, those that it lent its last part to, and those that had to move on in their stead.
        assert len(before[split] ^ after) < 0.1 * len(after), (split, gone.name)


def test_shares_of_invented_names():
    real, invented = ({q.name for q in asked("train") if q.is_real is kind} for kind in (True, False))
    assert len(real) > 1500
    assert len(invented) == len(real)
    few = {q.name for q in questions("train", invented_share=0.15) if not q.is_real}
    assert few < invented
    assert 0.1 < len(few) / len(invented) < 0.2  # 0.15, and six standard deviations of 1500 draws
    assert all(q.is_real for q in questions("train", size=50, invented_share=0))


def test_a_split_that_does_not_exist_or_has_nothing():
    with pytest.raises(ValueError, match="split='dev'; use train, validation, test, rephrased"):
        questions("dev")
    assert questions("train", size=8)
    with pytest.raises(UserError, match=r"^stdlib:1: none of these objects is in the \w+ split; ask for more of them$"):
        [questions(split, size=1) for split in SPLITS]


# What is real


def test_answers_are_what_the_objects_say():
    """`inspect.getdoc` of the imported object begins with the answer. Where a module is partly replaced by C, or built
    at import, the object may have another docstring: those are counted, and must be rare."""
    checked, others = 0, []
    for item in standard_library().documented:
        if (found := resolve(item.name)) is None:
            continue
        try:
            doc = inspect.getdoc(getattr(*found)) or ""
        except AttributeError:
            doc = ""
        checked += 1
        if not " ".join(doc.split()).startswith(item.sentence):
            others.append(item.name)
    assert checked > 500
    assert len(others) <= 0.01 * checked, others


def test_answers_are_whole_sentences_and_no_abstentions():
    for item in standard_library().documented:
        assert re.fullmatch(r"[A-Z][ -~]*\.", item.sentence), item
        assert not abstains(item.sentence)
        assert len(item.sentence.split()) >= library_module.FEWEST_WORDS


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Copy a file.", "Copy a file."),
        ("Copy a\n    file. Then stop.\n\nMore.", "Copy a file."),
        ("Take a name, e.g. the file's, and\nreturn it. Never fails.", "Take a name, e.g. the file's, and return it."),
        ("Return x.y, not x. `None` if there is none.", "Return x.y, not x."),
        ("No end\n\nAnother paragraph.", "No end"),
        ("Version 2.0 of it! See below.", "Version 2.0 of it!"),
    ],
)
def test_first_sentences(docstring, sentence):
    assert first_sentence(docstring) == sentence


# What is invented


def test_invented_names_do_not_exist():
    documented = {item.name for item in standard_library().documented}
    checked = 0
    for split in SPLITS:
        assert {q.answer for q in asked(split) if not q.is_real} == {ABSTENTION}
        for name in {q.name for q in asked(split) if not q.is_real}:
            assert name not in documented
            if (found := resolve(name)) is not None:
                checked += 1
                assert not hasattr(*found), name
    assert checked > 500


def test_invented_names_are_made_of_real_halves():
    documented = standard_library().documented
    owners, lasts = {item.owner for item in documented}, {item.name.rpartition(".")[2] for item in documented}
    for q in asked("train"):
        owner, _, last = q.name.rpartition(".")
        assert owner in owners
        assert last in lasts


# Chats


@pytest.mark.parametrize("split", SPLITS)
def test_conversations(seed, split):
    shuffled = questions(split, seed, 300)
    found = list(conversations(shuffled, split, seed))
    assert [q for q, _, _ in found] == shuffled
    answers = {q.prompt: q.answer for q in shuffled}
    allowed = SYSTEM_PROMPTS if split in ("train", "validation") else HELD_OUT_SYSTEM_PROMPTS
    for q, style, messages in found:
        roles = {"plain": ["user"], "system": ["system", "user"], "turns": ["user", "assistant", "user"]}[style]
        assert [message["role"] for message in messages] == roles
        assert messages[-1]["content"] == q.prompt
        if style == "system":
            assert messages[0]["content"] in allowed
        if style == "turns":
            assert answers[messages[0]["content"]] == messages[1]["content"]
            assert q.name not in messages[0]["content"].split("`")
    counts = {style: sum(s == style for _, s, _ in found) for style in STYLES}
    for style, share in STYLES.items():
        deviation = (len(found) * share * (1 - share)) ** 0.5
        assert abs(counts[style] - len(found) * share) < 6 * deviation + 3, counts


# Draws


def test_draws_are_the_same_on_every_machine():
    """Fixed by hand: whoever repeats a run next year must get the same questions."""
    assert draw("a", 1) == pytest.approx(0.8028205869559715, abs=1e-15)
    assert side_of("shutil.copyfile", {"train": 0.5, "test": 0.5}) == "train"


@given(st.lists(st.text(), min_size=1), st.floats(0, 1))
def test_draws(keys, share):
    assert 0 <= draw(*keys) < 1
    assert side_of(keys[0], {"a": share, "b": 1 - share}) in ("a", "b")
    assert side_of(keys[0], {"a": 1.0, "b": 0.0}) == "a"
