"""Supervised fine-tuning: what is in the loss, that the end of a turn is learned, and what a run leaves."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from rhapsode.recipes import sft
from rhapsode.recipes.alignment.datasets import sft_dataset
from rhapsode.recipes.alignment.models import open_policy
from rhapsode.recipes.alignment.report import is_alignment_run, write_report
from rhapsode.recipes.alignment.training import arguments, build, prepare
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.options.sft import SftOptions
from rhapsode.tokenization import encode_conversation
from safetensors.torch import load_file
from small_chats import ANSWERS, QUESTIONS, chats, completions, save_model, user, write_rows, write_splits
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
from trl import SFTTrainer

SUMS = 1e-4  # the same sum of float32 numbers in another order, over two layers
MERGED = 1e-5  # W + BA in one matrix, or in two products: float32 of numbers about one


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer_directory) -> str:
    return save_model(tmp_path_factory.mktemp("model"), tokenizer_directory)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> str:
    return write_splits(tmp_path_factory.mktemp("rows"), chats())


def options(model: str, dataset: str, directory: Path, **others) -> SftOptions:
    settings = {"max_steps": 4, "learning_rate": 1e-3, "logging_steps": 1, "eval_prompts": 0, "save_steps": 100}
    return SftOptions(model=model, dataset=dataset, output_dir=str(directory), bf16=False, **settings | others)


@pytest.fixture(scope="module")
def overfitted(model, rows, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    how = {"max_steps": 80, "learning_rate": 5e-3, "per_device_train_batch_size": 10, "logging_steps": 20}
    asked = {"eval_prompts": 10, "max_new_tokens": 40, "save_steps": 80, "eval_steps": 40}
    sft.run(options(model, rows, directory, **how, **asked))
    return directory


def test_overfitted_on_ten_chats_it_stops_by_itself(overfitted):
    writer = pipeline("text-generation", model=str(overfitted))
    for question, answer in zip(QUESTIONS[:10], ANSWERS[:10], strict=True):
        reply = writer([user(question)], max_new_tokens=60, do_sample=False)[0]["generated_text"]
        assert reply[-1] == {"role": "assistant", "content": answer}


def test_directory_of_a_run(overfitted):
    config = json.loads((overfitted / "config.json").read_text())
    generation = json.loads((overfitted / "generation_config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(overfitted)
    assert config["use_cache"] is True
    assert "{%- generation -%}" in tokenizer.chat_template
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    for ids in (config, generation):
        assert ids["pad_token_id"] == tokenizer.pad_token_id
        assert ids["eos_token_id"] in (tokenizer.eos_token_id, [tokenizer.eos_token_id])  # a list in transformers 5.16
    assert {"curves.png", "config_resolved.yaml", "checkpoints"} <= {path.name for path in overfitted.iterdir()}
    assert not list(overfitted.glob("*.bin"))
    metrics = [json.loads(line) for line in (overfitted / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics if "loss" in row] == [20, 40, 60, 80]
    assert [row["step"] for row in metrics if "eval_loss" in row] == [40, 80]


def test_results_compare_before_and_after(overfitted, tmp_path):
    results = json.loads((overfitted / "results.json").read_text())
    assert results["before"]["exact_on_real"] == 0 and results["after"]["exact_on_real"] == 1
    assert results["after"]["judge"] == 1 and results["win_rate"] == 1 and results["after"]["n"] == 10
    report = (overfitted / "report.md").read_text()
    assert ANSWERS[0] in report and "win rate" in report
    assert is_alignment_run(overfitted) and not is_alignment_run(tmp_path)
    assert write_report(overfitted, tmp_path).read_text() == report
    assert (tmp_path / "curves.png").stat().st_size > 0


@pytest.mark.parametrize("kind", [chats, completions])
def test_answer_and_its_end_are_in_the_loss_and_nothing_else(model, tmp_path, kind):
    examples = kind()
    trainer = built(options(model, write_splits(tmp_path / "rows", examples), tmp_path / "out"))
    tokenizer = trainer.processing_class
    conversations = [e.get("messages") or e["prompt"] + e["completion"] for e in examples]
    expected = {}
    for encoded in (encode_conversation(tokenizer, c) for c in conversations):
        pairs = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
        expected[tuple(encoded["input_ids"])] = [i if is_said else -100 for i, is_said in pairs]
    held_out = list(trainer.eval_dataset)
    assert len(held_out) == len(examples)
    for row in held_out:
        assert row["labels"] == expected[tuple(row["input_ids"])]
        assert row["labels"][-1] == tokenizer.eos_token_id
        assert row["input_ids"].count(tokenizer.bos_token_id) == 1


def built(asked: SftOptions) -> SFTTrainer:
    job = prepare("sft", asked, partial(open_policy, teach_chat=True), sft_dataset)
    config_class, own = sft.settings(job)
    return build(job, SFTTrainer, arguments(job, config_class, sft.LEARNING_RATE, **own))


def test_packed_rows_do_not_see_each_other(model, rows, tmp_path):
    trainer = built(options(model, rows, tmp_path / "out", packing=True, per_device_train_batch_size=4))
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["position_ids"].eq(0).sum() > 4, "nothing was packed"
    with torch.no_grad():
        packed = trainer.compute_loss(trainer.model, dict(batch)).item()
    alone, total, count = AutoModelForCausalLM.from_pretrained(model), 0.0, 0
    for row in prepare("sft", options(model, rows, tmp_path / "x"), open_policy, sft_dataset).train:
        encoded = encode_conversation(trainer.processing_class, row["messages"])
        ids, said = torch.tensor([encoded["input_ids"]]), torch.tensor(encoded["assistant_masks"]).bool()
        logits = alone(ids).logits[0, :-1]
        total += cross_entropy(logits[said[1:]], ids[0, 1:][said[1:]], reduction="sum").item()
        count += int(said[1:].sum())
    assert packed == pytest.approx(total / count, rel=SUMS)


def test_rows_that_are_too_long_are_left_out_and_counted(model, tmp_path, capsys):
    long = {"messages": [user("Why?"), {"role": "assistant", "content": "because of that and " * 40}]}
    data = write_splits(tmp_path / "rows", [*chats(), long])
    write_rows(tmp_path / "rows" / "validation.jsonl", chats())
    sft.run(options(model, data, tmp_path / "out", max_steps=1))
    assert "1 of 11 train rows and 0 of 10 held_out rows" in capsys.readouterr().err
    assert "| left out, longer than 128 tokens | 1 |" in (tmp_path / "out" / "report.md").read_text()
    with pytest.raises(UserError, match=r"the shortest of the 11 rows has .* and a row may have 4; raise --max_length"):
        sft.run(options(model, data, tmp_path / "other", max_length=4))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("merges", [True, False])
def test_adapter_merged_or_beside_its_base(model, rows, tmp_path, merges):
    out = tmp_path / "out"
    sft.run(options(model, rows, out, use_peft=True, learning_rate=2e-2, merge_adapter=merges, max_steps=2))
    opened = AutoModelForCausalLM.from_pretrained(out)
    assert any("lora_" in name for name, _ in opened.named_parameters()) is not merges
    base = AutoModelForCausalLM.from_pretrained(model)
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        before = base(ids).logits
        adapted = PeftModel.from_pretrained(base, out / "adapter" if merges else out)
        assert (opened(ids).logits - adapted(ids).logits).abs().max() < MERGED
        assert (opened(ids).logits - before).abs().max() > 100 * MERGED, "nothing was learned"
    if merges:
        assert json.loads((out / "config.json").read_text())["use_cache"] is True


def test_resumed_run_is_the_run_without_a_break(model, rows, tmp_path):
    asked = options(model, rows, tmp_path / "out", save_steps=2, per_device_train_batch_size=3)
    sft.run(asked)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    losses = [json.loads(line).get("loss") for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "checkpoint-4")
    (tmp_path / "out" / "model.safetensors").unlink()
    asked.resume = True
    sft.run(asked)
    resumed = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in weights.items())
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line).get("loss") for line in lines] == losses
    asked.learning_rate = 5e-4
    with pytest.raises(UserError, match=r"--resume with learning_rate=0\.0005"):
        sft.run(asked)


def test_faults_are_one_line(model, rows, tmp_path):
    wrong = write_rows(tmp_path / "wrong.jsonl", [{"mesages": []}])
    with pytest.raises(UserError, match=r"wrong.jsonl, line 1: no column 'messages'; the nearest is 'mesages'"):
        sft.run(options(model, wrong, tmp_path / "out"))
    with pytest.raises(UserError, match="is the model that the run starts from"):
        sft.run(options(model, rows, Path(model)))
    with pytest.raises(UserError, match="lora_target_modules query: the model's layers are down_proj, gate_proj"):
        sft.run(options(model, rows, tmp_path / "out", use_peft=True, lora_target_modules=["query"]))


def test_padding_that_is_the_end_gets_a_token_of_its_own(model, rows, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    asked = options(model, rows, tmp_path / "out", tokenizer=str(tmp_path / "tokenizer"))
    opened, mended = open_policy(asked)
    assert mended.pad_token_id != mended.eos_token_id
    assert opened.config.pad_token_id == opened.generation_config.pad_token_id == mended.pad_token_id
