"""The classifier: its data, its loss against a plain computation, scores whatever the padding, a run."""

import json
import math
import shutil
from functools import partial
from pathlib import Path

import datasets as hf
import numpy as np
import pytest
import rhapsode
import torch
from peft import PeftModel
from rhapsode.recipes import classify
from rhapsode.recipes.alignment.ranking import scores
from rhapsode.recipes.alignment.training import arguments, build
from rhapsode.recipes.classification.encoding import assemble, encode_rows, shortened
from rhapsode.recipes.classification.labels import find_labels
from rhapsode.recipes.classification.measures import constant_answer, decide, measure
from rhapsode.recipes.classification.tables import read_rows
from rhapsode.recipes.classification.training import ClassificationTrainer, TextHead
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.options.classify import MULTI, REGRESSION, SINGLE, ClassifyOptions
from safetensors.torch import load_file
from small_chats import WORDS, save_model, write_rows, write_splits
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainingArguments,
    pipeline,
)

SAME = 1e-5  # float32 numbers about one, in rows of another width


def texts(kind: str = SINGLE, count: int = 32) -> list[dict]:
    """Made-up sentences; the label can be read off the words."""
    rows = []
    for i in range(count):
        a, b = WORDS[i % 12], WORDS[(5 * i + 3) % 12]
        label = {SINGLE: "warm" if i % 12 < 5 else "cold", MULTI: sorted({a[0], b[0]}), REGRESSION: len(a) / 4}[kind]
        rows.append({"text": f"It is the {a} of the {b}, number {i}.", "label": label})
    return rows


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer_directory) -> str:
    return save_model(tmp_path_factory.mktemp("model"), tokenizer_directory)


def options(model: str, dataset: str, directory: Path, **others) -> ClassifyOptions:
    settings = {"max_steps": 4, "learning_rate": 1e-3, "logging_steps": 5, "save_steps": 100, "eval_steps": 100}
    return ClassifyOptions(model=model, dataset=dataset, output_dir=str(directory), bf16=False, **settings | others)


def trainer(asked: ClassifyOptions, **own):
    job, labels, _ = classify.prepare(asked)
    head = TextHead(asked, job.model) if asked.lm_coef else None
    return build(job, partial(ClassificationTrainer, labels, head), arguments(job, TrainingArguments, 1e-3, **own))


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    data = write_splits(tmp_path_factory.mktemp("rows"), texts())
    how = {"max_steps": 40, "learning_rate": 3e-3, "per_device_train_batch_size": 32, "eval_steps": 20}
    classify.run(options(model, data, directory, lm_coef=0.5, **how))
    return directory


# A run


def test_it_learns_32_rows_by_heart(trained, capsys):
    results = json.loads((trained / "results.json").read_text())
    assert results["classification"]["model"] == {"accuracy": 1, "f1": 1, "matthews_correlation": 1}
    constant = results["classification"]["constant"]
    cold = sum(row["label"] == "cold" for row in texts())
    assert constant["accuracy"] == cold / 32 and constant["matthews_correlation"] == 0
    assert results["confusion"] == {"names": ["cold", "warm"], "counts": [[cold, 0], [0, 32 - cold]]}
    assert results["eval_accuracy"] == 1 and results["eval_loss"] < 0.1


def test_directory_of_a_run(trained):
    opened = AutoModelForSequenceClassification.from_pretrained(trained)
    config = json.loads((trained / "config.json").read_text())
    assert isinstance(opened, rhapsode.RhapsodeForSequenceClassification)
    assert config["id2label"] == {"0": "cold", "1": "warm"} and config["problem_type"] == SINGLE
    assert config["use_cache"] is True and config["pad_token_id"] != config["eos_token_id"]
    assert {"report.md", "curves.png", "metrics.jsonl", "config_resolved.yaml"} <= {p.name for p in trained.iterdir()}
    metrics = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics if "eval_f1" in row] == [20, 40]
    report = (trained / "report.md").read_text()
    assert "| accuracy | 1.0000 | 0." in report and "| true class | cold | warm |" in report


def test_pipeline_answers_with_names_and_the_scores_that_were_trained(trained):
    """From raw text, on its own: the tokenizer that was saved ends texts as training did."""
    opened, tokenizer = (kind.from_pretrained(trained) for kind in (AutoModelForSequenceClassification, AutoTokenizer))
    asked = pipeline("text-classification", model=str(trained), top_k=None)
    for row in texts()[:6]:
        found = {answer["label"]: answer["score"] for answer in asked([row["text"]])[0]}
        ids = [tokenizer.bos_token_id, *tokenizer(row["text"], add_special_tokens=False).input_ids]
        expected = scores(opened, tokenizer, [[*ids, tokenizer.eos_token_id]], 1)[0].softmax(-1)
        assert found["cold"] == pytest.approx(expected[0].item(), abs=SAME)
        assert max(found, key=found.get) == row["label"]


def test_scores_do_not_depend_on_padding_or_neighbours(trained):
    opened, tokenizer = (kind.from_pretrained(trained) for kind in (AutoModelForSequenceClassification, AutoTokenizer))
    rows = [tokenizer(row["text"] * (1 + i % 3)).input_ids for i, row in enumerate(texts()[:9])]
    together = scores(opened, tokenizer, rows, 9)
    for ids, found in zip(rows, together, strict=True):
        assert ids[-1] == tokenizer.eos_token_id and ids.count(tokenizer.bos_token_id) == 1
        assert torch.allclose(opened(torch.tensor([ids])).logits[0], found, atol=SAME)
        left = torch.tensor([[tokenizer.pad_token_id] * 7 + ids])
        padded = opened(left, attention_mask=(left != tokenizer.pad_token_id).long()).logits[0]
        assert torch.allclose(padded, found, atol=SAME)
    assert together.std() > 100 * SAME


def test_resumed_run_is_the_run_without_a_break(model, tmp_path):
    data = write_splits(tmp_path / "rows", texts(count=12))
    asked = options(model, data, tmp_path / "out", save_steps=2, per_device_train_batch_size=3, lm_coef=0.5)
    classify.run(asked)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "checkpoint-4")
    (tmp_path / "out" / "model.safetensors").unlink()
    asked.resume = True
    classify.run(asked)
    resumed = load_file(tmp_path / "out" / "model.safetensors")
    assert set(resumed) == set(weights) and not any("lm_head" in name for name in weights)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in weights.items())


def test_what_is_frozen_stays(model, tmp_path):
    data = write_splits(tmp_path / "rows", texts(count=12))
    classify.run(options(model, data, tmp_path / "frozen", freeze=["model.*"], max_steps=2))
    before, after = (load_file(Path(d) / "model.safetensors") for d in (model, tmp_path / "frozen"))
    assert all(torch.equal(before[name], after[name]) for name in after if name != "score.weight")


@pytest.mark.slow
def test_adapters_are_merged_with_the_head_that_was_trained(model, tmp_path):
    data = write_splits(tmp_path / "rows", texts(count=12))
    asked = options(model, data, tmp_path / "lora", use_peft=True, learning_rate=1e-2, lm_coef=0.5)
    classify.run(asked)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "lora")
    rows = [tokenizer(row["text"]).input_ids for row in texts(count=5)]
    base = classify.prepare(asked.__class__(**vars(asked) | {"output_dir": str(tmp_path / "x")}))[0].model
    fresh = scores(base.eval(), tokenizer, rows, 5)
    adapted = scores(PeftModel.from_pretrained(base, tmp_path / "lora" / "adapter"), tokenizer, rows, 5)
    merged = scores(AutoModelForSequenceClassification.from_pretrained(tmp_path / "lora"), tokenizer, rows, 5)
    assert torch.allclose(merged, adapted, atol=SAME)
    assert (merged - fresh).abs().max() > 100 * SAME


# The loss


@pytest.mark.parametrize("kind", [SINGLE, MULTI, REGRESSION])
def test_loss_is_the_plain_computation(model, tmp_path, kind):
    data = write_splits(tmp_path / "rows", texts(kind, 7))
    made = trainer(options(model, data, tmp_path / "out", lm_coef=0.5, per_device_train_batch_size=7))
    inputs = next(iter(made.get_train_dataloader()))
    opened, writer = made.model, AutoModelForCausalLM.from_pretrained(model)
    expected = []
    for ids, mask, label in zip(inputs["input_ids"], inputs["attention_mask"], inputs["labels"], strict=True):
        ids = ids[mask.bool()][None]
        out = opened(ids).logits[0]
        of_label = {
            SINGLE: lambda out, y: -out.log_softmax(-1)[y],
            MULTI: lambda out, y: -(y * F.logsigmoid(out) + (1 - y) * F.logsigmoid(-out)).mean(),
            REGRESSION: lambda out, y: (out[0] - y).square(),
        }[kind](out, label)
        of_text = writer(ids, labels=ids).loss
        expected.append((of_label.item(), of_label.item() + 0.5 * of_text.item()))
    alone, both = (sum(column) / 7 for column in zip(*expected, strict=True))
    with torch.no_grad():
        assert made.compute_loss(opened.train(), inputs).item() == pytest.approx(both, rel=SAME)
        assert made.compute_loss(opened.eval(), inputs).item() == pytest.approx(alone, rel=SAME)


@pytest.mark.parametrize("kind", [SINGLE, MULTI, REGRESSION])
def test_small_batches_that_are_added_up_are_the_large_one(model, tmp_path, kind):
    """Seven rows: in one forward pass, and in passes of two, of which the last has one row."""
    data = write_splits(tmp_path / "rows", texts(kind, 7))
    weights = []
    for size, passes in ((7, 1), (2, 4)):
        shape = {"per_device_train_batch_size": size, "gradient_accumulation_steps": passes}
        shape |= {"max_steps": 1, "warmup_steps": 0, "learning_rate": 1.0, "max_grad_norm": 0.0}
        made = trainer(options(model, data, tmp_path / f"out{size}", lm_coef=0.5, **shape), optim="sgd")
        made.train()
        weights.append({name: p.detach().clone() for name, p in made.model.named_parameters()})
    before = load_file(Path(model) / "model.safetensors")
    moved = max((weights[0][name] - tensor).abs().max() for name, tensor in before.items() if name in weights[0])
    apart = max((weights[0][name] - weights[1][name]).abs().max() for name in weights[0])
    assert apart < 1e-4 * moved


def untied(model: str, directory: Path, kind: type) -> str:
    kind(rhapsode.RhapsodeConfig.from_pretrained(model, tie_word_embeddings=False)).save_pretrained(directory)
    AutoTokenizer.from_pretrained(model).save_pretrained(directory)
    return str(directory)


def test_a_head_for_text_that_is_not_the_embedding_stays_as_it_is(model, tmp_path):
    data = write_splits(tmp_path / "rows", texts(count=12))
    made = trainer(options(model, data, tmp_path / "out", lm_coef=1.0))
    assert made.text_head.head.weight is made.model.get_input_embeddings().weight
    apart = untied(model, tmp_path / "untied", rhapsode.RhapsodeForCausalLM)
    made = trainer(options(apart, data, tmp_path / "out2", lm_coef=1.0))
    assert made.text_head.head.weight is not made.model.get_input_embeddings().weight
    before = made.text_head.head.weight.clone()
    made.train()
    assert torch.equal(made.text_head.head.weight, before)
    made = untied(model, tmp_path / "classifier", rhapsode.RhapsodeForSequenceClassification)
    with pytest.raises(UserError, match=r"--lm_coef 0.5: .* is no language model: it has no lm_head.weight; use 0"):
        classify.run(options(made, data, tmp_path / "other", lm_coef=0.5))


# Measures


def test_measures_of_two_classes_by_hand():
    labels = find_labels([("", "no"), ("", "yes")], None)
    truth, said = [1] * 5 + [0] * 7, [1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    tp, fn, fp, tn = 3, 2, 2, 5
    found = measure(truth, said, labels)
    assert found["accuracy"] == pytest.approx((tp + tn) / 12)
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    below = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert found["matthews_correlation"] == pytest.approx((tp * tn - fp * fn) / below)


def test_measures_of_more_classes_and_of_several_labels():
    labels = find_labels([("", name) for name in "abc"], None)
    truth, said = [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0]
    f1 = [2 * 1 / (2 + 1 + 1), 2 * 2 / (4 + 1 + 0), 2 * 1 / (2 + 0 + 1)]
    assert measure(truth, said, labels)["f1"] == pytest.approx(sum(f1) / 3)
    several = find_labels([("", ["a", "b"]), ("", [])], None)
    truth, said = [[1, 0], [1, 1], [0, 0]], [[1, 0], [1, 0], [0, 1]]
    found = measure(truth, said, several)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["f1_micro"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["f1_macro"] == pytest.approx((1 + 0) / 2)


def test_measures_of_numbers(seed):
    labels, rng = find_labels([("", 0.5)], None), np.random.default_rng(seed)
    x, y = rng.normal(size=40), rng.normal(size=40)
    found = measure(x, y, labels)
    assert found["pearson"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    ranks = [np.argsort(np.argsort(v)) for v in (x, y)]
    assert found["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert found["mse"] == pytest.approx(((x - y) ** 2).mean())
    constant = measure(x, constant_answer(x, 40, labels), labels)
    assert constant["pearson"] == constant["spearman"] == 0 and constant["mse"] == pytest.approx(x.var())


def test_decisions():
    logits = np.array([[0.1, -0.2, 3.0], [-1.0, -2.0, -3.0]])
    assert decide(logits, find_labels([("", n) for n in "abc"], None)).tolist() == [2, 0]
    assert decide(logits, find_labels([("", list("abc"))], None)).tolist() == [[1, 0, 1], [0, 0, 0]]
    assert decide(logits[:, :1], find_labels([("", 0.5)], None)).tolist() == [0.1, -1.0]


# Labels and tables


@pytest.mark.parametrize(
    ("found", "kind", "names"),
    [
        (["b", "a", "b"], SINGLE, ("a", "b")),
        ([10, 9, 2], SINGLE, ("2", "9", "10")),
        (["10", "9"], SINGLE, ("9", "10")),
        ([True, False], SINGLE, ("False", "True")),
        ([1, 2.5], REGRESSION, ()),
        (["1", "2.5"], REGRESSION, ()),
        ([["b"], [], ["a", "b"]], MULTI, ("a", "b")),
    ],
)
def test_kind_and_names_are_decided_by_the_labels(found, kind, names):
    labels = find_labels([("", label) for label in found], None)
    assert (labels.problem_type, labels.names) == (kind, names)
    encoded = [labels.encode(label, "") for label in found]
    if kind == SINGLE:
        assert [names[i] for i in encoded] == [str(label) for label in found]
    elif kind == MULTI:
        assert encoded == [[0, 1], [0, 0], [1, 1]]
    else:
        assert encoded == [1.0, 2.5]


def test_kind_can_be_told():
    assert find_labels([("", 1), ("", 3)], REGRESSION).encode(3, "") == 3.0
    assert find_labels([("", 1.5), ("", 3.5)], SINGLE).names == ("1.5", "3.5")


def test_the_same_rows_from_every_kind_of_file(model, tmp_path):
    rows = [{"premise": f"a, {i}", "hypothesis": f'"b" {i}', "class": "xy"[i % 2]} for i in range(6)]
    write_rows(tmp_path / "rows.jsonl", rows)
    hf.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    hf.Dataset.from_list(rows).to_csv(tmp_path / "rows.csv")
    columns = {"text_column": "premise", "text_pair_column": "hypothesis", "label_column": "class"}
    found = []
    for kind in ("jsonl", "parquet", "csv"):
        asked = options(model, str(tmp_path / f"rows.{kind}"), tmp_path / "out", **columns)
        both = read_rows(asked, "train") + read_rows(asked, "validation")
        found.append(sorted((row["text"], row["text_pair"], row["label"]) for row in both))
    assert found[0] == found[1] == found[2] and len(found[0]) < 7
    assert set(found[0]) <= {(row["premise"], row["hypothesis"], row["class"]) for row in rows}


def test_two_texts_have_an_end_between_them(model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    rows = [
        {"text": "one thing", "text_pair": "another"},
        {"text": f"is {tokenizer.eos_token} text", "text_pair": None},
    ]
    first, second = (assemble(tokenizer, texts) for texts in encode_rows(tokenizer, rows))
    a, b = (tokenizer(text, add_special_tokens=False).input_ids for text in ("one thing", "another"))
    assert first == [bos, *a, eos, *b, eos]
    assert second.count(eos) == 1 and tokenizer.decode(second, skip_special_tokens=True) == rows[1]["text"]
    classify.teach(tokenizer, 128)
    assert tokenizer("one thing", "another").input_ids == first
    assert tokenizer("one thing").input_ids == [bos, *a, eos]


def test_the_longer_text_is_cut_and_the_last_token_kept(model, tmp_path, capsys):
    assert shortened([[1, 2, 3, 4, 5], [6, 7]], 2) == [[1, 2, 3], [6, 7]]
    assert shortened([[1, 2, 3, 4, 5], [6, 7, 8]], 4) == [[1, 2], [6, 7]]
    data = write_splits(tmp_path / "rows", [*texts(count=12), {"text": "word " * 300, "label": "cold"}])
    job, _, cut = classify.prepare(options(model, data, tmp_path / "out"))
    assert job.left_out == {"train": 1, "held_out": 1} and cut == 0 and len(job.train) == 12
    job, _, cut = classify.prepare(options(model, data, tmp_path / "out", truncation=True))
    assert job.left_out == {"train": 0, "held_out": 0} and cut == 2
    longest = max(job.train["input_ids"], key=len)
    assert len(longest) == 128 and longest[-1] == job.tokenizer.eos_token_id
    with pytest.raises(UserError, match="no train row has at most 3 tokens; raise --max_length"):
        classify.prepare(options(model, data, tmp_path / "out", max_length=3))


def test_sentences_of_the_library(model, tmp_path):
    asked = options(model, "stdlib:300", tmp_path / "out")
    sides = [read_rows(asked, split) for split in ("train", "validation")]
    assert {row["label"] for row in sides[0]} == {"function", "class", "method"}
    assert len(sides[0]) > 4 * len(sides[1]) > 0
    assert {row["text"] for row in sides[0]}.isdisjoint(row["text"] for row in sides[1])
    assert read_rows(options(model, "stdlib:300", tmp_path, max_samples=5), "train") == sides[0][:5]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a"}], r"line 1: no column 'label'; --label_column takes one of text"),
        ([{"txt": "a", "label": 1}], r"line 1: no column 'text'; --text_column takes one of txt, label"),
        ([{"text": " ", "label": 1}], r"line 1: text is ' '; it must be a text with something in it"),
        ([{"text": "a", "label": None}], r"line 1: label is null"),
        ([{"text": "a", "label": "x"}, {"text": "b", "label": ["x"]}], r"line 1: label 'x' is not a list of labels"),
        ([{"text": "a", "label": 1.5}, {"text": "b", "label": float("nan")}], r"label nan is not a finite number"),
        ([{"text": "a", "label": {"x": 1}}], r"line 1: label {'x': 1} is neither a text nor a number nor a list"),
        ([{"text": "a", "label": "x"}], r"the training rows have 1 label \(x\); a classifier needs two"),
    ],
)
def test_faults_of_data_are_one_line(model, tmp_path, rows, message):
    with pytest.raises(UserError, match=message) as caught:
        classify.prepare(options(model, write_splits(tmp_path / "rows", rows), tmp_path / "out"))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_other_faults_are_one_line(model, tmp_path):
    data = write_splits(tmp_path / "rows", texts())
    with pytest.raises(UserError, match=r"--freeze 'modle\.\*' fits no parameter; the nearest one is"):
        classify.prepare(options(model, data, tmp_path / "out", freeze=["modle.*"]))
    with pytest.raises(UserError, match="--freeze with --use_peft"):
        options(model, data, tmp_path / "out", freeze=["model.*"], use_peft=True)
    write_rows(tmp_path / "rows" / "validation.jsonl", [{"text": "a", "label": "hot"}])
    with pytest.raises(UserError, match=r"validation.jsonl, line 1: label 'hot' is not among .* \(cold, warm\)"):
        classify.prepare(options(model, data, tmp_path / "out"))
    (tmp_path / "ragged.csv").write_text("text,label\na,b\nc\n")
    with pytest.raises(UserError, match=r"ragged.csv, line 3: the header has 2 fields, and the row another number"):
        classify.prepare(options(model, str(tmp_path / "ragged.csv"), tmp_path / "out"))
