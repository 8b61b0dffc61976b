"""Tables for alignment: of the standard library, of files and of the Hub, and one clear line for what is wrong.

Oracles: the rows that were written, and the checks of trl for its own formats.
"""

import gzip
import itertools
import json
import re

import datasets as hf
import pytest
from rhapsode.recipes.alignment.datasets import (
    HELD_OUT_SHARE,
    preference_dataset,
    prompt_dataset,
    sft_dataset,
    unpaired_dataset,
)
from rhapsode.recipes.alignment.drawing import draw
from rhapsode.recipes.alignment.judge import ABSTENTION, measure
from rhapsode.recipes.alignment.preferences import FOR_POLICY, KINDS
from rhapsode.recipes.alignment.questions import SPLITS, questions
from rhapsode.recipes.options.base import UserError

MAKERS = {"sft": sft_dataset, "preference": preference_dataset, "prompt": prompt_dataset, "unpaired": unpaired_dataset}
SMALL = "stdlib:150"


def user(text="hello"):
    return {"role": "user", "content": text}


def assistant(text="hi"):
    return {"role": "assistant", "content": text}


CHAT = {"messages": [user(), assistant()]}
PAIR = {"prompt": [user()], "chosen": [assistant("yes")], "rejected": [assistant("no")]}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        hf.Dataset.from_list(rows).to_parquet(path)
    else:
        text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
        (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8").write(text)
    return str(path)


def complaint(make, *arguments, **named) -> str:
    with pytest.raises(UserError) as caught:
        make(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message
    return message


# The standard library


def test_sft_rows_are_the_questions_with_their_answers(seed):
    table = sft_dataset(SMALL, "train", seed)
    asked = {q.prompt: q for q in questions("train", seed, 150, 0.15)}
    assert len(table) == len(asked)
    for row in table:
        *_, question, answer = row["messages"]
        q = asked[question["content"]]
        assert (question["role"], answer) == ("user", assistant(q.answer))
        assert (row["name"], row["kind"]) == (q.name, q.kind)
    abstained = sum(row["messages"][-1]["content"] == ABSTENTION for row in table)
    assert 0 < abstained < 0.35 * len(table)
    everything = sft_dataset(SMALL, "train", seed, invented_share=1.0)
    assert sum(row["messages"][-1]["content"] == ABSTENTION for row in everything) == len(everything) / 2


def test_no_sft_text_is_in_another_split(seed):
    """Not only the objects: nothing that is said in training but abstentions and system prompts is said in the test."""
    said = {}
    for split in ("train", "validation", "test"):
        tables = sft_dataset(SMALL, split, seed)["messages"], preference_dataset(SMALL, split, seed)
        turns = [turn for messages in tables[0] for turn in messages]
        turns += [turn for row in tables[1] for f in ("prompt", "chosen", "rejected") for turn in row[f]]
        said[split] = {turn["content"] for turn in turns if turn["role"] != "system"} - {ABSTENTION}
    # Cut or spliced answers may coincide ("Return the"): what must not is a whole question or answer.
    whole = {split: {text for text in texts if text.endswith((".", "?"))} for split, texts in said.items()}
    assert whole["train"].isdisjoint(whole["test"])
    assert whole["train"].isdisjoint(whole["validation"])
    assert whole["validation"].isdisjoint(whole["test"])


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("split", SPLITS)
def test_tables_of_the_library_pass_their_own_checks(seed, tmp_path, make, split):
    """Written to a file and read again they are what they were: in trl's format, roles in order, no text empty."""
    from trl.data_utils import is_conversational

    table = make(SMALL, split, seed, limit=20)
    assert len(table) == 20
    assert all(is_conversational(row) for row in table)
    path = write(tmp_path / "train.jsonl", table.to_list())
    assert {json.dumps(row) for row in make(path)} <= {json.dumps(row) for row in table}


def test_the_judge_gives_the_references_full_marks(seed):
    rows = prompt_dataset(SMALL, "rephrased", seed)
    right = measure(rows, rows["reference"])
    assert right["judge"] == right["exact_on_real"] == right["abstention_precision"] == right["abstention_recall"] == 1
    always = measure(rows, [ABSTENTION] * len(rows))
    assert always["judge"] == pytest.approx(0.5 * 1 + 0.5 * 0.2)  # as many invented names as real ones
    assert always["abstention_precision"] == 0.5


def test_kinds_of_preferences(seed):
    everything = preference_dataset(SMALL, "train", seed)
    assert set(everything["kind"]) == set(KINDS)
    kept = preference_dataset(SMALL, "train", seed, kinds=FOR_POLICY)
    assert list(kept) == [row for row in everything if row["kind"] != "another"]
    with pytest.raises(ValueError, match="kinds=\\['other'\\]; use another, truncated"):
        preference_dataset(SMALL, kinds=("other",))


def test_unpaired_rows_are_the_halves_of_the_pairs(seed):
    """trl's own function says what a pair gives."""
    from trl.data_utils import unpair_preference_dataset

    def texts(rows):
        return sorted((json.dumps(r["prompt"]), r["completion"][0]["content"], r["label"]) for r in rows)

    pairs = preference_dataset(SMALL, "validation", seed)
    expected = unpair_preference_dataset(pairs.select_columns(["prompt", "chosen", "rejected"]))
    assert texts(unpaired_dataset(SMALL, "validation", seed)) == texts(expected)
    assert len(unpaired_dataset(SMALL, "validation", seed, limit=7)) == 7


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_seed_and_limit(seed, make):
    rows = make("stdlib:60", "train", seed).to_list()
    assert make("stdlib:60", "train", seed).to_list() == rows
    assert make("stdlib:60", "train", seed + 1).to_list() != rows
    assert make("stdlib:60", "train", seed, limit=5).to_list() == rows[:5]
    with pytest.raises(ValueError, match="limit=0"):
        make("stdlib:60", limit=0)


@pytest.mark.parametrize("source", ["stdlib:", "stdlib:0", "stdlib:many", "stdlib:-3"])
def test_a_number_of_objects_that_is_none(source):
    assert complaint(sft_dataset, source).endswith("comes the number of objects, as in stdlib:400")


# Files


@pytest.mark.parametrize("name", ["chats.jsonl", "chats.json", "chats.parquet", "chats.jsonl.gz"])
def test_files_of_each_kind(tmp_path, name):
    rows = [{"messages": [user(f"question {i}"), assistant(f"answer {i}")], "source": "us"} for i in range(200)]
    path = write(tmp_path / name, rows)
    parts = [sft_dataset(path, split).to_list() for split in ("train", "validation", "test")]
    assert sorted(itertools.chain(*parts), key=str) == sorted(rows, key=str)
    for part in parts[1:]:
        deviation = (200 * HELD_OUT_SHARE) ** 0.5
        assert 1 <= len(part) < 200 * HELD_OUT_SHARE + 6 * deviation
    assert sft_dataset(path, "train", limit=3).to_list() == parts[0][:3]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_rows_leave_one_to_train_on(tmp_path, count):
    """Also where the draw would hold out every one of them."""
    drawn = (f"question {i}" for i in itertools.count())
    questions = list(itertools.islice((q for q in drawn if draw("held out", q) < 2 * HELD_OUT_SHARE), count))
    path = write(tmp_path / "chats.jsonl", [{"messages": [user(q), assistant()]} for q in questions])
    parts = {}
    for split in ("train", "validation", "test"):
        try:
            parts[split] = [row["messages"][0]["content"] for row in sft_dataset(path, split)]
        except UserError as error:
            assert f"no row in its {split} split" in str(error)
    assert parts["train"] and sorted(itertools.chain(*parts.values())) == sorted(questions)


def test_rows_with_the_same_question_stay_together(tmp_path):
    rows = [{"messages": [user(f"question {i % 30}"), assistant(f"answer {i}")]} for i in range(120)]
    path = write(tmp_path / "chats.jsonl", rows)
    asked = [{row["messages"][0]["content"] for row in sft_dataset(path, s)} for s in ("train", "validation", "test")]
    assert sum(map(len, asked)) == 30
    assert all(asked)


def test_files_named_after_splits(tmp_path):
    for name, text in {"train.jsonl": "a", "my-test.jsonl": "b", "dev/0.parquet": "c"}.items():
        write(tmp_path / name, [{"messages": [user(text), assistant(text)]}])
    for split, text in {"train": "a", "test": "b", "validation": "c"}.items():
        assert [row["messages"] for row in sft_dataset(str(tmp_path), split)] == [[user(text), assistant(text)]]


def test_texts_become_turns(tmp_path):
    path = write(tmp_path / "train.jsonl", [{"prompt": "p", "completion": "c", "chosen": "a", "rejected": "b"}])
    assert sft_dataset(path)[0]["prompt"] == [user("p")]
    assert sft_dataset(path)[0]["completion"] == [assistant("c")]
    assert prompt_dataset(path)[0]["prompt"] == [user("p")]
    assert preference_dataset(path)[0]["chosen"] == [assistant("a")]
    assert [(row["completion"], row["label"]) for row in unpaired_dataset(path)] == [
        ([assistant("a")], True),
        ([assistant("b")], False),
    ]


def test_preferences_of_whole_conversations(tmp_path):
    """The prompt is what both have in common, as trl's own `extract_prompt` finds it."""
    from trl.data_utils import extract_prompt

    start = [{"role": "system", "content": "s"}, user(), assistant(), user("more")]
    row = {"chosen": [*start, assistant("yes")], "rejected": [*start, assistant("no")]}
    path = write(tmp_path / "train.jsonl", [row])
    assert preference_dataset(path)[0] == extract_prompt(row)


def test_tool_calls_stay_as_they_are(tmp_path):
    calls = [
        {"type": "function", "function": {"name": n, "arguments": a}} for n, a in (("f", {"x": 1}), ("g", {"y": "z"}))
    ]
    rows = [
        {"messages": [user(), {"role": "assistant", "content": None, "tool_calls": [call]}, tool, tool, assistant()]}
        for call in calls
        for tool in [{"role": "tool", "content": "3"}]
    ]
    read = sft_dataset(write(tmp_path / "train.jsonl", rows))
    found = [row["messages"][1]["tool_calls"][0]["function"]["arguments"] for row in read]
    assert found in ([{"x": 1}, {"y": "z"}], [{"x": 1}], [{"y": "z"}])
    without = write(tmp_path / "other.jsonl", [{"messages": [user(), assistant(), {"role": "tool", "content": "3"}]}])
    assert "messages[2].role is 'tool' after assistant" in complaint(sft_dataset, without)


# What is wrong with a row: file, row and field in one line

WRONG = [
    (
        "sft",
        {"mesages": []},
        "no column 'messages'; the nearest is 'mesages'; this takes messages or prompt + completion",
    ),
    ("sft", {"prompt": "p", "completions": "c"}, "no column 'completion'; the nearest is 'completions'"),
    ("sft", {"text": "t"}, "no column 'messages'; found text; this takes"),
    ("sft", {"messages": None}, "messages is null"),
    ("sft", 3, "int and not an object with fields"),
    ("sft", {"messages": "t"}, "messages is a text; it must be a list"),
    ("sft", {"messages": []}, "messages is []; it must be a list of messages, at least one"),
    (
        "sft",
        {"messages": [{"from": "human"}]},
        "messages[0] is {'from': 'human'}; it must be an object with role and content",
    ),
    (
        "sft",
        {"messages": [{"role": "human", "content": "t"}]},
        "messages[0].role is 'human'; use system, user, assistant",
    ),
    ("sft", {"messages": [assistant()]}, "messages[0].role is 'assistant' after nothing; the order is"),
    ("sft", {"messages": [user(), user()]}, "messages[1].role is 'user' after user; the order is"),
    ("sft", {"messages": [user(), {"role": "system", "content": "t"}]}, "messages[1].role is 'system' after user"),
    ("sft", {"messages": [user()]}, "messages ends with role 'user'; it must end with assistant"),
    ("sft", {"messages": [user(), assistant(" \n")]}, "messages[1].content is empty; give the assistant's text"),
    ("sft", {"messages": [user(3), assistant()]}, "messages[0].content is int; it must be a text"),
    ("sft", {"prompt": "", "completion": "c"}, "prompt[0].content is empty"),
    ("preference", {"prompt": "p", "chosen": "a", "reject": "b"}, "no column 'rejected'; the nearest is 'reject'"),
    ("preference", {"prompt": "p", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same"),
    ("preference", {"chosen": "a", "rejected": "b"}, "chosen is a text and there is no column 'prompt'"),
    ("preference", {"chosen": [user("a"), assistant()], "rejected": [user("b"), assistant()]}, "up to a user's turn"),
    ("preference", PAIR | {"chosen": [user()]}, "chosen[0].role is 'user' after user"),
    ("prompt", {"prompt": [user(), assistant()]}, "prompt ends with role 'assistant'; it must end with user or tool"),
    ("prompt", {"question": "p"}, "no column 'prompt'; found question"),
    ("unpaired", {"prompt": "p", "completion": "c", "label": "yes"}, "label is 'yes'; use true"),
    ("unpaired", {"prompt": "p", "completion": "c"}, "no column 'label'"),
]


@pytest.mark.parametrize(("kind", "row", "message"), WRONG)
def test_wrong_rows(tmp_path, kind, row, message):
    good = {"sft": CHAT, "preference": PAIR, "prompt": {"prompt": "p"}}.get(kind, PAIR)
    path = write(tmp_path / "train.jsonl", [good, row])
    said = complaint(MAKERS[kind], path)
    assert said.startswith(f"--dataset {path}, line 2: ")
    assert message in said


def test_wrong_rows_of_parquet(tmp_path):
    path = write(tmp_path / "train.parquet", [CHAT, CHAT, {"messages": [user("a"), user("b")]}])
    assert complaint(sft_dataset, path).startswith(f"--dataset {path}, row 3: messages[1].role is 'user'")


def test_files_that_cannot_be_read(tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"messages": []\n')
    assert complaint(sft_dataset, str(broken)).startswith(f"--dataset {broken}, line 1 is not JSON")
    broken.write_bytes(b"\n\xff\xfe\n")
    assert complaint(sft_dataset, str(broken)).startswith(f"--dataset {broken}, line 2 is not JSON in UTF-8")
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1")
    assert complaint(sft_dataset, str(damaged)).startswith(f"--dataset {damaged}: not a parquet file")
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"a": 1}' * 1000)[:-9])
    assert complaint(sft_dataset, str(cut)).startswith(f"--dataset {cut}: ")
    text = tmp_path / "story.txt"
    text.write_text("once")
    assert ".jsonl, .json, .parquet" in complaint(sft_dataset, str(text))
    assert "no such file" in complaint(sft_dataset, str(tmp_path / "none.jsonl"))


def test_empty_splits(tmp_path):
    empty = write(tmp_path / "empty.jsonl", [])
    assert (
        complaint(sft_dataset, empty)
        == f"--dataset {empty}: no row in its train split; give more rows or another split"
    )
    one = write(tmp_path / "one.jsonl", [CHAT])
    assert len(sft_dataset(one)) == 1
    assert "no row in its validation split" in complaint(sft_dataset, one, "validation")
    only = write(tmp_path / "test.jsonl", [CHAT])
    assert len(sft_dataset(only, "test")) == 1
    assert complaint(sft_dataset, only) == f"--dataset {only}: its splits are test; train needs a train split"
    assert "has no split 'rephrased'; use train, validation, test" in complaint(sft_dataset, one, "rephrased")


def test_columns_that_do_not_make_a_table_stay_json(tmp_path):
    rows = [{"prompt": f"{i}", "score": value} for i, value in enumerate([1, "good", {"a": 2}, None] * 10)]
    read = prompt_dataset(write(tmp_path / "train.jsonl", rows))
    by_prompt = {row["prompt"][0]["content"]: row["score"] for row in read}
    assert by_prompt == {row["prompt"]: row["score"] for row in rows if row["prompt"] in by_prompt}


# The Hub


def hub(monkeypatch, **splits):
    monkeypatch.setattr(hf, "get_dataset_split_names", lambda name, configuration: list(splits))
    monkeypatch.setattr(
        hf, "load_dataset", lambda name, configuration, split: hf.Dataset.from_list(splits[split]) if splits else None
    )


def test_a_dataset_of_the_hub(monkeypatch):
    rows = [{"messages": [user(f"{i}"), assistant()]} for i in range(60)]
    hub(monkeypatch, train_sft=rows[:50], train_gen=[{"x": 1}], test=rows[50:])
    assert "test" in complaint(sft_dataset, "someone/chats")  # two begin with train
    hub(monkeypatch, train_sft=rows[:50], test=rows[50:])
    assert sft_dataset("someone/chats", "test").to_list() == rows[50:]
    train, validation = (sft_dataset("someone/chats:en", split).to_list() for split in ("train", "validation"))
    assert validation
    assert sorted(train + validation, key=str) == sorted(rows[:50], key=str)
    hub(monkeypatch, train=[CHAT, {"messages": [user()]}])
    assert complaint(sft_dataset, "a/b").startswith("--dataset a/b, train row 2: messages ends with role 'user'")
    hub(monkeypatch, first=rows)
    assert re.search("has the splits first, and none is train", complaint(sft_dataset, "a/b"))
