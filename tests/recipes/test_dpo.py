"""Direct preference optimization: the loss against the formula, one copy of the weights, KL and win rate."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from rhapsode.recipes import dpo
from rhapsode.recipes.alignment.answering import divergence, encode_prompts
from rhapsode.recipes.alignment.evaluation import win_rate
from rhapsode.recipes.alignment.judge import ABSTENTION
from rhapsode.recipes.alignment.models import open_policy
from rhapsode.recipes.alignment.training import arguments, build, prepare
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.options.dpo import DpoOptions
from rhapsode.tokenization import encode_conversation
from small_chats import QUESTIONS, pairs, save_model, user, write_splits
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOTrainer

SAME = 2e-4  # sums over an answer of float32 log-probabilities of about -6, times beta
EXACT = 1e-5  # float32 at one position


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer_directory) -> str:
    return save_model(tmp_path_factory.mktemp("model"), tokenizer_directory)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> str:
    return write_splits(tmp_path_factory.mktemp("rows"), pairs())


def options(model: str, dataset: str, directory: Path, **others) -> DpoOptions:
    settings = {"max_steps": 8, "learning_rate": 3e-3, "logging_steps": 4, "save_steps": 100, "eval_steps": 100}
    settings |= {"eval_prompts": 4, "max_new_tokens": 8}
    return DpoOptions(model=model, dataset=dataset, output_dir=str(directory), bf16=False, **settings | others)


def built(asked: DpoOptions) -> DPOTrainer:
    job = prepare("dpo", asked, open_policy, dpo.read)
    config_class, own = dpo.settings(job)
    return build(job, DPOTrainer, arguments(job, config_class, dpo.LEARNING_RATE, **own))


def log_ratio(model, reference, tokenizer, row: dict, key: str) -> torch.Tensor:
    """log p(y | x) / p_ref(y | x), token by token."""
    encoded = encode_conversation(tokenizer, row["prompt"] + row[key])
    ids, said = torch.tensor([encoded["input_ids"]]), torch.tensor(encoded["assistant_masks"][1:]).bool()
    found = [m(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[said].sum() for m in (model, reference)]
    return found[0] - found[1]


@pytest.mark.parametrize("use_peft", [False, True])
def test_loss_is_that_of_the_paper_with_one_copy_of_the_weights(model, rows, tmp_path, seed, use_peft):
    asked = options(
        model, rows, tmp_path / "out", use_peft=use_peft, per_device_train_batch_size=len(pairs()), beta=0.3
    )
    trainer = built(asked)
    assert trainer.ref_model is None
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(0.6931472, abs=SAME)
        for p in trainer.model.parameters():
            if p.requires_grad:
                p.add_(0.02 * torch.randn_like(p))
        loss = trainer.compute_loss(trainer.model, batch).item()
        whole = trainer.model.merge_and_unload() if use_peft else trainer.model
        whole.save_pretrained(tmp_path / "moved")
        moved = AutoModelForCausalLM.from_pretrained(tmp_path / "moved")
        reference, tokenizer = AutoModelForCausalLM.from_pretrained(model), trainer.processing_class
        ratios = [[log_ratio(moved, reference, tokenizer, r, k) for k in ("chosen", "rejected")] for r in pairs()]
    expected = torch.stack([-logsigmoid(0.3 * (better - worse)) for better, worse in ratios]).mean().item()
    assert loss == pytest.approx(expected, abs=SAME)
    assert abs(loss - 0.6931472) > 10 * SAME


@pytest.mark.parametrize("use_peft", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_prefers_what_it_was_told_to(model, rows, tmp_path, use_peft):
    out = tmp_path / "out"
    dpo.run(options(model, rows, out, use_peft=use_peft))
    results = json.loads((out / "results.json").read_text())
    assert results["eval_rewards/accuracies"] == 1 and results["eval_loss"] < 0.5
    assert results["kl"] > 0 and len(results["samples"]) == 4
    losses = [row["loss"] for row in map(json.loads, (out / "metrics.jsonl").open()) if "loss" in row]
    assert all(after < before for before, after in pairwise(losses))
    opened, reference = (AutoModelForCausalLM.from_pretrained(path) for path in (out, model))
    tokenizer = AutoTokenizer.from_pretrained(out)
    with torch.no_grad():
        for row in pairs():
            better, worse = (log_ratio(opened, reference, tokenizer, row, key) for key in ("chosen", "rejected"))
            assert better > worse


def test_divergence_at_one_token_is_the_closed_form(model, tmp_path, seed):
    tokenizer = AutoTokenizer.from_pretrained(model)
    prompts = encode_prompts(tokenizer, [[user(q)] for q in (*QUESTIONS[:3], "Why?")])
    one, other = (AutoModelForCausalLM.from_pretrained(model).eval() for _ in range(2))
    assert divergence(one, other, tokenizer, prompts, 5, 2, seed) == (0.0, 0.0)
    with torch.no_grad():
        for p in one.parameters():
            p.add_(0.05 * torch.randn_like(p))
        logs = [[m(torch.tensor([ids])).logits[0, -1].log_softmax(-1) for m in (one, other)] for ids in prompts]
    exact = torch.stack([(p.exp() * (p - q)).sum() for p, q in logs]).mean().item()
    assert exact > 100 * EXACT
    assert divergence(one, other, tokenizer, prompts, 1, 3, seed)[0] == pytest.approx(exact, abs=EXACT)
    assert divergence(one, other, tokenizer, prompts, 4, 3, seed)[0] > exact


def test_win_rate_counts_a_tie_as_half():
    real = {"reference": "It copies a file.", "is_real": True}
    invented = {"reference": ABSTENTION, "is_real": False}
    before = ["It copies.", "It copies a file.", "It runs.", ABSTENTION]
    after = ["It copies a file.", "It copies a file.", ABSTENTION, "It runs."]
    assert win_rate([real, real, invented, invented], before, after) == (1 + 0.5 + 1 + 0) / 4


def test_settings_that_trl_would_not_read_are_refused(model, rows, tmp_path):
    with pytest.raises(UserError, match=r"--loss_type sigmoid with --label_smoothing 0\.1"):
        options(model, rows, tmp_path, label_smoothing=0.1)
    with pytest.raises(UserError, match=r"--loss_type robust with --label_smoothing 0\.0"):
        options(model, rows, tmp_path, loss_type="robust")
    assert options(model, rows, tmp_path, loss_type="robust", label_smoothing=0.1).label_smoothing == 0.1
