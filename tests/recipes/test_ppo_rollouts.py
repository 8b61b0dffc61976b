"""Rollouts, rewards and settings of `PPOTrainer`. Oracles: each row alone, the reward model itself, trl's defaults."""

import json
import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from ppo_worker import PROMPTS, changed, first_rollout, prompts, small_model, trainer
from rhapsode.recipes.trainers.buffer import RolloutBuffer
from rhapsode.recipes.trainers.pretraining import PretrainingRows
from rhapsode.recipes.trainers.rewards import weighted
from rhapsode.recipes.trainers.state import load_state
from rhapsode.trainers import PPOConfig
from transformers import AutoTokenizer, LlamaForSequenceClassification

FLOAT = 1e-5  # float32, in a batch of another width


@pytest.fixture(scope="module")
def tokenizer(tokenizer_directory):
    return AutoTokenizer.from_pretrained(tokenizer_directory)


def reward_model(tokenizer, model):
    torch.manual_seed(1)
    model.config.num_labels = 1
    return LlamaForSequenceClassification(model.config).eval()


@pytest.mark.parametrize("conversational", [True, False])
def test_reward_models_and_functions_with_weights(tokenizer, tmp_path, conversational):
    """The model reads the ids of the rollout, up to an EOS that was generated; its critic starts as it is."""
    model = small_model(tokenizer)
    judge = reward_model(tokenizer, model)
    only_even = lambda prompts, number, **_: [1.0 if n % 2 == 0 else None for n in number]  # noqa: E731
    only_even.__name__ = "even"

    async def slow(completion_ids, log_metric, log_extra, trainer_state, **_):
        log_metric("length", sum(map(len, completion_ids)) / len(completion_ids))
        log_extra("step", [trainer_state.global_step] * len(completion_ids))
        return [float(len(ids)) for ids in completion_ids]

    settings = {"reward_weights": [2.0, 0.5, 0.1], "max_steps": 1, "log_completions": True}
    data = prompts(conversational)
    run = trainer(tmp_path, tokenizer, model, [judge, only_even, slow], data, settings)
    rows = [data[i] for i in range(4)]
    scored = run._complete(rows)
    scores = run.rewards.score(scored, run.state, "cpu", 3)
    for b, (prompt, completion) in enumerate(zip(scored.prompt_ids, scored.completion_ids, strict=True)):
        alone = judge(input_ids=torch.tensor([prompt + completion])).logits[0, 0].item()
        assert scores[b].tolist() == pytest.approx(
            [alone, math.nan if b % 2 else 1.0, float(len(completion))], abs=FLOAT, nan_ok=True
        )
    run.rewards.extra.clear()  # what the call above has logged
    run.rewards.metrics.clear()
    run.train()
    logged = run.state.log_history[0]
    assert {"rewards/even/mean", "rewards/slow/std", "rewards/LlamaForSequenceClassification/mean"} <= set(logged)
    assert logged["length"] == pytest.approx(logged["completions/mean_length"])
    parts = [logged[f"rewards/{n}/mean"] for n in ("LlamaForSequenceClassification", "slow")]
    even = sum(row % 2 == 0 for row in _rows_of(run)) / run.args.generation_batch_size
    assert logged["reward"] == pytest.approx(2 * parts[0] + 0.5 * even + 0.1 * parts[1], abs=1e-4)


def _rows_of(run) -> list[int]:
    table = Path(run.args.output_dir) / "completions" / "train-000001.jsonl"
    lines = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    texts = [r["prompt"] if isinstance(r["prompt"], str) else r["prompt"][0]["content"] for r in lines]
    return [int(text.split()[-1]) for text in texts]


def test_the_critic_begins_as_the_reward_model(tokenizer, tmp_path):
    model = small_model(tokenizer)
    judge = reward_model(tokenizer, model)
    run = trainer(tmp_path, tokenizer, model, judge)
    rollout = first_rollout(run)
    row = int(rollout["attention_mask"][0].sum())
    states = judge.model(input_ids=rollout["input_ids"][:1, :row]).last_hidden_state
    expected = judge.score(states)[0, :-1, 0] * rollout["mask"][0, 1:row]
    assert (rollout["old_values"][0, 1:row] - expected).abs().max() < FLOAT
    run.train()
    assert changed(dict(judge.state_dict()), dict(reward_model(tokenizer, model).state_dict())) == []


def test_truncated_completions_can_be_left_out(tokenizer, tmp_path):
    run = trainer(tmp_path, tokenizer, settings={"mask_truncated_completions": True})
    with torch.no_grad():
        run.model.lm_head.weight[tokenizer.eos_token_id] *= 5
    rollout = first_rollout(run)
    lengths = rollout["attention_mask"].sum(1)
    last = rollout["input_ids"].gather(1, lengths[:, None] - 1)[:, 0]
    ended = torch.isin(last, torch.tensor(run.eos_ids))
    assert torch.equal(rollout["mask"].sum(1) > 0, ended)


def test_rollouts_of_many_prompts_are_those_of_each_prompt_alone(tokenizer, tmp_path):
    """Greedy completions, prompts of several lengths: left padding changes nothing."""
    settings = {"generation_kwargs": {"do_sample": False}, "max_completion_length": 9}
    run = trainer(tmp_path, tokenizer, small_model(tokenizer, kind="rhapsode"), settings=settings)
    rows = [run.train_dataset[i] for i in range(8)]
    together = run._complete(rows)
    assert len(set(map(len, together.prompt_ids))) > 1
    alone = [run._complete([row]).completion_ids[0] for row in rows]
    assert together.completion_ids == alone
    run.args.rollout_batch_size = 3
    assert run._complete(rows).completion_ids == alone


def test_every_row_is_seen_once_an_epoch():
    buffer = RolloutBuffer(4, 2, 3, lambda tensor: tensor)
    lengths = torch.tensor([1, 3, 2, 5, 4, 1, 2, 3])
    mask = (torch.arange(6)[None] < lengths[:, None]).float()
    ids = torch.arange(8)[:, None].expand(8, 6)
    buffer.fill({"input_ids": ids, "attention_mask": mask.long(), "mask": mask})
    orders = []
    for epoch in range(3):
        parts = [buffer.next() for _ in range(4)]
        rows = [part["input_ids"][:, 0] for part in parts]
        assert sorted(torch.cat(rows).tolist()) == list(range(8))
        orders.append(torch.cat(rows).tolist())
        for part, own in zip(parts, rows, strict=True):
            assert part["mask"].size(1) == lengths[own].max()
        for update in (0, 1):
            both = torch.cat(rows[2 * update : 2 * update + 2])
            assert all(part["tokens"] == lengths[both].sum() for part in parts[2 * update : 2 * update + 2])
        assert buffer.needs_rollout == (epoch == 2)
    assert len({tuple(order) for order in orders}) > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps_per_generation": 3, "gradient_accumulation_steps": 2}, "not a multiple of gradient_accumulation"),
        ({"generation_batch_size": 10, "steps_per_generation": None}, "not a multiple of 4"),
        ({"num_generations": 3}, "does not divide the 8"),
        ({"kl_estimator": "k2"}, "use one of k1, k3"),
        ({"lam": 1.5}, "between 0 and 1"),
        ({"beta": 0.0, "kl_target": 3.0}, "kl_target needs a reference"),
        ({"steps_per_generation": 5}, "16 prompts, but a rollout takes 20"),
        ({"reward_weights": [1.0, 2.0]}, "2 reward_weights for 1"),
        ({"ptx_coef": 1.0}, "pretraining_dataset go together"),
        ({"value_model": "reward"}, "no reward model has"),
    ],
)
def test_what_cannot_be_is_said(tokenizer, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, tokenizer, settings=settings).train()


def test_a_function_without_weight_is_measured_and_teaches_nothing():
    nan = math.nan
    scores = torch.tensor([[1.0, 9.0, 2.0], [nan, 9.0, nan], [nan, 9.0, 4.0], [3.0, nan, nan]])
    totals = weighted(scores, torch.tensor([2.0, 0.0, -1.0]))
    assert totals.tolist() == pytest.approx([0.0, nan, -4.0, 6.0], nan_ok=True)


def test_rows_of_ids_are_pretraining_text_as_they_are(tokenizer):
    data = Dataset.from_dict({"input_ids": [[5, 6, 7, 8], [9, 9]]})
    rows = PretrainingRows(data, tokenizer, 3, 2, 1, 0, 0).rows(0)
    assert sorted(rows) == [[5, 6, 7], [9, 9]]


@pytest.mark.parametrize("wrong", [[1.0], [math.inf] * 8])
def test_wrong_scores_are_refused(tokenizer, tmp_path, wrong):
    with pytest.raises(ValueError, match="reward function <lambda> returned"):
        trainer(tmp_path, tokenizer, reward_funcs=lambda **_: wrong).train()


def test_a_checkpoint_of_more_processes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="as many processes"):
        load_state(str(tmp_path), 1)


def test_the_defaults_are_trl_s_where_trl_has_them(tmp_path):
    from trl import RLOOConfig

    ours, theirs = PPOConfig(str(tmp_path)), RLOOConfig(str(tmp_path), use_cpu=True)
    names = ("learning_rate", "logging_steps", "beta", "epsilon", "epsilon_high", "temperature", "top_p", "top_k")
    names += ("min_p", "repetition_penalty", "reward_weights", "reward_clip_range", "mask_truncated_completions")
    names += ("shuffle_dataset", "remove_unused_columns", "ds3_gather_for_generation", "log_completions")
    assert [getattr(ours, name) for name in names] == [getattr(theirs, name) for name in names]
    assert not ours.bf16 or torch.cuda.is_available()
    assert PROMPTS % 8 == 0
