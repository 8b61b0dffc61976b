"""Kahneman-Tversky optimization: the loss against the formula, and rows that are not in the order of the file."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from rhapsode.recipes import kto
from rhapsode.recipes.alignment.models import open_policy
from rhapsode.recipes.alignment.training import arguments, build, prepare
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.options.kto import KtoOptions
from small_chats import pairs, save_model, write_splits
from transformers import AutoModelForCausalLM
from trl import KTOTrainer

SAME = 2e-4  # sums over an answer of float32 log-probabilities of about -6, times beta


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer_directory) -> str:
    return save_model(tmp_path_factory.mktemp("model"), tokenizer_directory)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> str:
    return write_splits(tmp_path_factory.mktemp("rows"), pairs())


def options(model: str, dataset: str, directory: Path, **others) -> KtoOptions:
    settings = {"max_steps": 9, "learning_rate": 3e-3, "logging_steps": 4, "save_steps": 100, "eval_steps": 100}
    settings |= {"eval_prompts": 0, "per_device_train_batch_size": 8}
    return KtoOptions(model=model, dataset=dataset, output_dir=str(directory), bf16=False, **settings | others)


def log_ratio(model, reference, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """log p(y | x) / p_ref(y | x)."""
    ids, begin = torch.tensor([prompt + answer]), len(prompt) - 1
    logs = [m(ids).logits[0, begin:-1].log_softmax(-1).gather(1, ids[0, begin + 1 :, None]) for m in (model, reference)]
    return (logs[0] - logs[1]).sum()


def test_loss_is_that_of_the_paper_with_one_copy_of_the_weights(model, rows, tmp_path, seed):
    asked = options(model, rows, tmp_path / "out", beta=0.3, desirable_weight=1.5)
    job = prepare("kto", asked, open_policy, kto.read)
    config_class, own = kto.settings(job)
    trainer = build(job, KTOTrainer, arguments(job, config_class, kto.LEARNING_RATE, **own))
    assert trainer.ref_model is None
    with torch.no_grad():
        for p in trainer.model.parameters():
            p.add_(0.02 * torch.randn_like(p))
        trainer.model.save_pretrained(tmp_path / "moved")
        loss = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader()))).item()
        moved, reference = (AutoModelForCausalLM.from_pretrained(path) for path in (tmp_path / "moved", model))
        batch = [trainer.train_dataset[i] for i in range(8)]
        answers = [row["completion_ids"] for row in batch]
        others = [answers[-1], *answers[:-1]]
        z = torch.stack(
            [log_ratio(moved, reference, row["prompt_ids"], y) for row, y in zip(batch, others, strict=True)]
        ).mean()
        expected = []
        for row in batch:
            r = log_ratio(moved, reference, row["prompt_ids"], row["completion_ids"])
            gain = 0.3 * (r - z.clamp(min=0))
            expected.append(1.5 * (1 - gain.sigmoid()) if row["label"] else 1 - (-gain).sigmoid())
    assert loss == pytest.approx(torch.stack(expected).mean().item(), abs=SAME)


def test_good_and_bad_answers_to_a_prompt_do_not_stand_side_by_side(rows):
    table = kto.read(rows, "train", 0, None)
    prompts = [row["prompt"][0]["content"] for row in table]
    side_by_side = sum(a == b for a, b in pairwise(prompts))
    assert sorted(table["label"]) == [False] * 12 + [True] * 12
    assert side_by_side <= 4, "in the order of the file all 12 do"


def test_a_run_tells_good_from_bad(model, rows, tmp_path):
    kto.run(options(model, rows, tmp_path / "out", use_peft=True))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["eval_rewards/chosen"] > 0.1 > -0.1 > results["eval_rewards/rejected"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_one_row_a_batch_has_no_other_answer(model, rows, tmp_path):
    with pytest.raises(UserError, match=r"--per_device_train_batch_size 1: the KL estimate of kto"):
        options(model, rows, tmp_path, per_device_train_batch_size=1)
