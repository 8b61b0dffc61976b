"""The reward model: its loss against the formula, rewards whatever the padding, and what is measured of it."""

import json
from pathlib import Path

import pytest
import rhapsode
import torch
from peft import PeftModel
from rhapsode.recipes import reward
from rhapsode.recipes.alignment.datasets import preference_dataset
from rhapsode.recipes.alignment.models import open_scorer
from rhapsode.recipes.alignment.ranking import BINS, calibration, rank, rewards
from rhapsode.recipes.alignment.training import arguments, build, prepare
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.options.reward import RewardOptions
from rhapsode.tokenization import encode_conversation
from small_chats import pairs, save_model, write_splits
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

SAME = 1e-5  # float32 numbers about one, in rows of another width
DRAWS, FAR = 200_000, 5.5  # standard errors of the accuracy in a bin


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer_directory) -> str:
    return save_model(tmp_path_factory.mktemp("model"), tokenizer_directory)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> str:
    return write_splits(tmp_path_factory.mktemp("rows"), pairs())


def options(model: str, dataset: str, directory: Path, **others) -> RewardOptions:
    settings = {"max_steps": 20, "learning_rate": 3e-3, "logging_steps": 5, "save_steps": 100, "eval_steps": 20}
    return RewardOptions(model=model, dataset=dataset, output_dir=str(directory), bf16=False, **settings | others)


@pytest.fixture(scope="module")
def trained(model, rows, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    reward.run(options(model, rows, directory))
    return directory


def conversations(key: str) -> list[list[dict]]:
    return [row["prompt"] + row[key] for row in pairs()]


def test_loss_is_that_of_bradley_and_terry(model, rows, tmp_path):
    job = prepare("reward", options(model, rows, tmp_path / "out"), open_scorer, preference_dataset)
    args = arguments(job, RewardConfig, 1e-5, center_rewards_coefficient=0.25, per_device_train_batch_size=len(pairs()))
    trainer = build(job, RewardTrainer, args)
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model.eval(), next(iter(trainer.get_train_dataloader()))).item()
    chosen, rejected = (rewards(trainer.model, job.tokenizer, conversations(k), 4) for k in ("chosen", "rejected"))
    expected = -logsigmoid(chosen - rejected).mean() + 0.25 * (chosen + rejected).square().mean()
    assert loss == pytest.approx(expected.item(), abs=SAME)


def test_reward_is_read_at_the_last_token_whatever_the_padding(trained):
    tokenizer = AutoTokenizer.from_pretrained(trained)
    scorer = AutoModelForSequenceClassification.from_pretrained(trained)
    texts = conversations("chosen") + conversations("rejected")
    together = rewards(scorer, tokenizer, texts, len(texts))
    for text, found in zip(texts, together, strict=True):
        ids = encode_conversation(tokenizer, text)["input_ids"]
        assert ids[-1] == tokenizer.eos_token_id
        alone = scorer(torch.tensor([ids])).logits.item()
        assert found.item() == pytest.approx(alone, abs=SAME)
        padded = torch.tensor([[tokenizer.pad_token_id] * 7 + ids])
        left = scorer(padded, attention_mask=(padded != tokenizer.pad_token_id).long()).logits.item()
        assert left == pytest.approx(alone, abs=SAME)
    assert together.std() > 100 * SAME


def test_directory_of_a_run(trained, rows):
    scorer = AutoModelForSequenceClassification.from_pretrained(trained)
    assert isinstance(scorer, rhapsode.RhapsodeForSequenceClassification) and scorer.num_labels == 1
    config = json.loads((trained / "config.json").read_text())
    results = json.loads((trained / "results.json").read_text())
    assert config["use_cache"] is True and config["pad_token_id"] != config["eos_token_id"]
    assert results["accuracy"] == 1 and results["margin"] > 1
    found = rank(scorer, AutoTokenizer.from_pretrained(trained), preference_dataset(rows, "validation"), 3)
    assert found["margin"] == pytest.approx(results["margin"], abs=SAME)
    assert {"report.md", "curves.png", "calibration.png", "metrics.jsonl"} <= {path.name for path in trained.iterdir()}
    assert "held-out pairs ranked right | 1.0000" in (trained / "report.md").read_text()


def test_adapter_is_merged_with_the_head_that_was_trained(model, rows, tmp_path):
    out = tmp_path / "out"
    asked = options(model, rows, out, use_peft=True, learning_rate=1e-2)
    reward.run(asked)
    tokenizer, merged = AutoTokenizer.from_pretrained(out), AutoModelForSequenceClassification.from_pretrained(out)
    base, _ = open_scorer(asked)
    before = rewards(base, tokenizer, conversations("chosen"), 4)
    adapted = rewards(PeftModel.from_pretrained(base, out / "adapter"), tokenizer, conversations("chosen"), 4)
    after = rewards(merged, tokenizer, conversations("chosen"), 4)
    assert (after - adapted).abs().max() < SAME
    assert (after - before).abs().max() > 100 * SAME


def test_calibration_of_one_that_is_calibrated(seed):
    """Margins m whose sign is right with probability sigmoid(|m|) give accuracy = probability in each bin."""
    size = torch.rand(DRAWS) * 4
    margins = size * torch.where(torch.rand(DRAWS) < size.sigmoid(), 1.0, -1.0)
    bins = calibration(margins)
    assert len(bins) == BINS and sum(b["pairs"] for b in bins) == DRAWS
    for b in bins:
        assert abs(b["accuracy"] - b["probability"]) < FAR * (0.25 / b["pairs"]) ** 0.5 + 1e-3
    sure = calibration(3 * margins)
    assert max(b["probability"] - b["accuracy"] for b in sure) > 0.1, "three times too sure, and not seen"


def test_what_cannot_be_told_apart_is_half_right():
    (only,) = calibration(torch.zeros(6))
    assert (only["probability"], only["accuracy"], only["pairs"]) == (0.5, 0.5, 6)


def test_faults_are_one_line(rows, tmp_path, tokenizer_directory):
    with pytest.raises(UserError, match=r"--model .* cannot be opened"):
        reward.run(options(str(tmp_path / "none"), rows, tmp_path / "out"))
    bare = AutoTokenizer.from_pretrained(tokenizer_directory)
    bare.chat_template = None
    model = save_model(tmp_path / "bare", tokenizer_directory)
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    bare.save_pretrained(model)
    with pytest.raises(UserError, match="it has no chat_template; train it with rhapsode sft first"):
        reward.run(options(model, rows, tmp_path / "out"))
