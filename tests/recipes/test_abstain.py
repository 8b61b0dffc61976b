"""Abstention: what a model knows is found by asking it, the data follow from that, and it learns from them."""

import json
from itertools import product
from pathlib import Path

import pytest
import yaml
from rhapsode.recipes import abstain, report, sft
from rhapsode.recipes.alignment import knowledge
from rhapsode.recipes.alignment.datasets import preference_dataset, sft_dataset
from rhapsode.recipes.alignment.judge import ABSTENTION
from rhapsode.recipes.options.abstain import AbstainOptions
from rhapsode.recipes.options.base import UserError, parse
from rhapsode.recipes.options.report import ReportOptions
from rhapsode.recipes.options.sft import SftOptions
from small_chats import ANSWERS, QUESTIONS, chats, save_model, user, write_rows, write_splits

TAUGHT = 6  # of the twelve questions


def questions() -> list[dict]:
    return [{"prompt": [user(q)], "reference": a} for q, a in zip(QUESTIONS, ANSWERS, strict=True)]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_splits(tmp_path_factory.mktemp("questions"), questions())


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer_directory) -> str:
    """Knows the answers to half of the questions."""
    base = save_model(tmp_path_factory.mktemp("base"), tokenizer_directory)
    rows = write_splits(tmp_path_factory.mktemp("rows"), chats(TAUGHT))
    directory = tmp_path_factory.mktemp("sft")
    how = {"max_steps": 60, "learning_rate": 5e-3, "per_device_train_batch_size": TAUGHT, "eval_prompts": 0}
    sft.run(SftOptions(model=base, dataset=rows, output_dir=str(directory), bf16=False, save_steps=100, **how))
    return str(directory)


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> str:
    """The configuration of the training that follows: as short as it can be."""
    path = tmp_path_factory.mktemp("config") / "sft.yaml"
    how = {"max_steps": 40, "learning_rate": 5e-3, "per_device_train_batch_size": 12, "bf16": False, "eval_prompts": 0}
    path.write_text(yaml.safe_dump(how | {"save_steps": 100, "eval_steps": 100}))
    return str(path)


def options(model: str, data: str, directory: Path, **others) -> AbstainOptions:
    how = {"num_generations": 3, "temperature": 0.3, "max_new_tokens": 32, "per_device_eval_batch_size": 9}
    how["right_from"] = 1.0  # the answers differ in two words
    return AbstainOptions(model=model, dataset=data, output_dir=str(directory), **how | others)


@pytest.fixture(scope="module")
def taught(model, data, training, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("abstain")
    abstain.run(options(model, data, directory, train="sft", train_config=training))
    return directory


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# A run


def test_what_it_was_taught_is_what_it_knows(taught):
    asked = lines(taught / "samples.jsonl")
    assert {row["prompt"][0]["content"] for row in asked if row["known"]} == set(QUESTIONS[:TAUGHT])
    for row in asked:
        assert len(row["answers"]) == 3
        assert row["known"] is (row["right"] >= 0.5)
    assert json.loads((taught / "results.json").read_text())["knowledge"]["held-out questions"]["known"] == 0.5


def test_data_keep_what_it_knows_and_abstain_from_the_rest(taught):
    """As this project's own readers take them."""
    known = set(QUESTIONS[:TAUGHT])
    demonstrations = sft_dataset(str(taught / "sft.jsonl")).to_list()
    right = dict(zip(QUESTIONS, ANSWERS, strict=True))
    for row in demonstrations:
        question, answer = (turn["content"] for turn in row["messages"])
        assert answer == (right[question] if question in known else ABSTENTION)
    pairs = preference_dataset(str(taught / "preferences.jsonl")).to_list()
    for row in pairs:
        question, chosen, rejected = (row[key][-1]["content"] for key in ("prompt", "chosen", "rejected"))
        assert (chosen == ABSTENTION) == (question not in known) and chosen != rejected
    written = lines(taught / "preferences.jsonl")
    assert {row["prompt"][-1]["content"] for row in written} == set(QUESTIONS)


def test_it_learns_to_abstain_from_what_it_did_not_know(taught):
    results = json.loads((taught / "results.json").read_text())
    before, after = results["before"], results["after"]
    assert before["abstention_recall"] == 0 and before["exact_on_real"] == 1
    # Of the data a part is held out, so that not all has been seen.
    assert after["abstention_recall"] > 0.5 and after["abstention_precision"] > 0.7 and after["exact_on_real"] > 0.5
    text = (taught / "report.md").read_text()
    assert (
        f"| abstention recall | 0.0000 | {after['abstention_recall']:.4f} |" in text
        and "## What the model knows" in text
    )
    assert f"| sft.jsonl | {len(QUESTIONS)} |" in text and (taught / "agreement.png").stat().st_size > 0
    (taught / "agreement.png").unlink()
    report.run(ReportOptions(runs=[str(taught)]))
    assert (taught / "report.md").read_text() == text and (taught / "agreement.png").exists()


def test_measured_again_it_is_the_same(taught, tmp_path):
    again = AbstainOptions(model=str(taught / "sft"), before=str(taught), output_dir=str(tmp_path / "again"))
    abstain.run(again)
    first, second = (json.loads((d / "results.json").read_text()) for d in (taught, tmp_path / "again"))
    assert [second[when] for when in ("before", "after")] == [first[when] for when in ("before", "after")]
    text = (tmp_path / "again" / "report.md").read_text()
    assert "## Before and after" in text and "Unfinished" not in text


def test_after_a_break_it_asks_what_it_has_not_asked(model, data, taught, training, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    whole = (taught / "samples.jsonl").read_text()
    for name in ("config_resolved.yaml", "held_out.jsonl"):
        (tmp_path / "out" / name).write_bytes((taught / name).read_bytes())
    cut = (tmp_path / "out" / "samples.jsonl").write_text(whole[: int(0.6 * len(whole))])
    resolved = yaml.safe_load((tmp_path / "out" / "config_resolved.yaml").read_text()) | {"output_dir": str(tmp_path)}
    (tmp_path / "out" / "config_resolved.yaml").write_text(f"# rhapsode abstain \n{yaml.safe_dump(resolved)}")
    asked = []
    answer = knowledge.answer
    monkeypatch.setattr(knowledge, "answer", lambda *a, **k: asked.append(len(a[2])) or answer(*a, **k))
    abstain.run(options(model, data, tmp_path / "out", resume=True))
    assert (tmp_path / "out" / "samples.jsonl").read_text() == whole and cut
    assert 0 < sum(asked) < 12 * 4, "all were asked again, or none"
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "after" not in results and "| prompt | reference | before |" in (tmp_path / "out" / "report.md").read_text()
    with pytest.raises(UserError, match=r"--resume with known_from=0\.9"):
        abstain.run(options(model, data, tmp_path / "out", resume=True, known_from=0.9))


@pytest.mark.slow
def test_it_goes_on_with_preferences(model, data, taught, tmp_path):
    """--train may be added to a run that has asked its questions."""
    directory, config = tmp_path / "out", tmp_path / "dpo.yaml"
    how = {"max_steps": 4, "learning_rate": 1e-3, "bf16": False, "eval_prompts": 0, "save_steps": 100}
    config.write_text(yaml.safe_dump(how))
    abstain.run(options(model, data, directory))
    abstain.run(options(model, data, directory, resume=True, train="dpo", train_config=str(config)))
    assert (directory / "samples.jsonl").read_bytes() == (taught / "samples.jsonl").read_bytes()
    results = json.loads((directory / "results.json").read_text())
    assert results["before"]["n"] == results["after"]["n"] == len(QUESTIONS)
    assert (directory / "dpo" / "model.safetensors").exists()


# What is measured


def test_agreement_by_hand():
    assert knowledge.agreement(["a b c", "A b, c."]) == 1
    assert knowledge.agreement(["", ""]) == 1 and knowledge.agreement(["", "a"]) == 0
    # L of the pairs is 2, 0 and 0; F = 2 L / (both lengths)
    assert knowledge.agreement(["a b c", "a x c", "y"]) == pytest.approx((4 / 6) / 3)


def test_bins_and_separation(seed):
    import random

    rows = [{"agreement": random.choice([0.05, 0.31, 0.39, 1.0]), "right": random.random()} for _ in range(50)]
    rows = [row | {"known": row["right"] > 0.5} for row in rows]
    bins = knowledge.agreement_bins(rows)
    assert sum(b["questions"] for b in bins) == 50 and len(bins) <= 3
    inside = [row for row in rows if 0.3 <= row["agreement"] < 0.4]
    (middle,) = [b for b in bins if 0.3 <= b["agreement"] < 0.4]
    assert middle["right"] == pytest.approx(sum(row["right"] for row in inside) / len(inside))
    sides = [[row["agreement"] for row in rows if row["known"] is side] for side in (True, False)]
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in product(*sides)]
    assert knowledge.separation(rows) == pytest.approx(sum(wins) / len(wins))
    assert knowledge.separation([row for row in rows if row["known"]]) is None


def test_an_empty_answer_becomes_no_message():
    row = {"prompt": [user("Who?")], "reference": "Nobody at all.", "is_real": True}
    asked = [row | {"answers": ["", "", ""], "greedy": "", "known": False, "agreement": 1.0}]
    demonstrations, pairs = abstain.data(asked, AbstainOptions())
    assert demonstrations[0]["messages"][-1]["content"] == ABSTENTION and pairs == []


def test_an_abstention_that_was_right_before_stays_right():
    """A name that does not exist, and a model that said so: it knew, and the answer is still to abstain."""
    row = {"prompt": [user("Who?")], "reference": ABSTENTION, "is_real": False, "known": True, "agreement": 0.5}
    asked = [row | {"answers": [ABSTENTION, "It is a file."], "greedy": ABSTENTION}]
    demonstrations, pairs = abstain.data(asked, AbstainOptions())
    assert demonstrations[0]["messages"][-1]["content"] == ABSTENTION
    assert [(p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in pairs] == [(ABSTENTION, "It is a file.")]
    found = abstain.compared(asked, ["It is a line."])
    assert found["before"]["abstention_precision"] == found["before"]["abstention_recall"] == 1
    assert found["after"]["abstention_recall"] == 0


def test_questions_of_the_library_are_held_out_in_other_words(model):
    train, held_out = (abstain.read(AbstainOptions(dataset="stdlib:100"), side) for side in (False, True))
    assert {frozenset(row) for row in (train[0], held_out[0])} == {frozenset(("prompt", "reference", "is_real"))}
    texts = [{row["prompt"][-1]["content"] for row in rows} for rows in (train, held_out)]
    assert texts[0].isdisjoint(texts[1]) and len(held_out) == 200


def test_configurations_are_those_of_their_commands():
    configs = Path(abstain.__file__).parent / "configs"
    asked = parse(AbstainOptions, ["--config", str(configs / "abstain.yaml")], "rhapsode abstain", "")
    assert asked.train == "sft" and Path(asked.train_config).name == "abstain_sft.yaml"
    taught = parse(SftOptions, ["--config", str(configs / "abstain_sft.yaml")], "rhapsode sft", "")
    assert taught.max_new_tokens == asked.max_new_tokens
    for given in ("model", "dataset", "output_dir"):  # by abstain itself
        assert getattr(taught, given) == getattr(SftOptions(), given)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"num_generations": 1}, "--num_generations 1 shows no agreement"),
        ({"right_from": 0.0}, r"--right_from 0\.0 must be above 0 and at most 1"),
        ({"train_config": "x.yaml"}, "--train_config without --train"),
        ({"before": "runs/x"}, "--dataset with --before: the questions are those of the run before"),
    ],
)
def test_options_that_exclude_each_other(tmp_path, others, message):
    with pytest.raises(UserError, match=message):
        options("runs/sft", "questions", tmp_path, **others)


def test_faults_are_one_line(model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": [user("Why?")]}, {"prompt": [user("Who?")]}])
    with pytest.raises(UserError, match=r"rows.jsonl: train row 1 has no text in column 'reference'"):
        abstain.run(options(model, rows, tmp_path / "out"))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "held_out.jsonl").write_text("{}{\n")
    with pytest.raises(UserError, match=r"held_out.jsonl is damaged; delete it"):
        abstain.run(AbstainOptions(model=model, before=str(tmp_path / "damaged"), output_dir=str(tmp_path / "out")))
    with pytest.raises(UserError, match=r"held_out.jsonl: no questions; name the --output_dir of a run"):
        abstain.run(AbstainOptions(model=model, before=str(tmp_path), output_dir=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
