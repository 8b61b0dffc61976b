"""`PPOTrainer` as a whole. Oracles: plain loops over the whole logits, an undisturbed run, models as they were."""

import copy
import itertools
import json
import math

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from ppo_worker import changed, first_rollout, prompts, small_model, trainer, vowels, weights
from rhapsode.recipes.trainers.values import VALUE_FILE
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

EXACT = 1e-9  # the same sums in float64, in another order
FLOAT = 1e-5  # in float32, in a batch of another width
LORA = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.fixture(scope="module")
def tokenizer(tokenizer_directory):
    return AutoTokenizer.from_pretrained(tokenizer_directory)


class EndsAt(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


SETTINGS = {"beta": 0.3, "gamma": 0.9, "lam": 0.8, "missing_eos_penalty": 0.5, "entropy_coef": 0.1, "vf_coef": 0.4}
SETTINGS |= {"cliprange_value": 0.1, "epsilon_high": 0.25, "reward_clip_range": (-0.4, 0.6), "temperature": 0.8}


def plain_loss(run, policy, reference, rollout, scores, new) -> float:
    """Every term by loops over rows and tokens, from the logits of each row alone; `new` is the policy by now."""
    a, tokens = run.args, []
    for b in range(len(scores)):
        length = int(rollout["attention_mask"][b].sum())
        ids, mask = rollout["input_ids"][b, :length], rollout["whole"][b]
        places = mask[:length].nonzero().flatten().tolist()
        old, ref, now = (_per_token(m, ids, a.temperature)[0] for m in (policy, reference, new))
        entropy = _per_token(new, ids, a.temperature)[1]
        old_v, new_v = (_plain_values(m, ids) for m in (policy, new))
        score = min(max(scores[b], -0.4), 0.6) - (0.5 if ids[-1] not in run.eos_ids else 0)
        rewards = [-a.beta * (old[t] - ref[t]).item() + (score if t == places[-1] else 0) for t in places]
        advantage, advantages = 0.0, []
        for i in reversed(range(len(places))):
            following = old_v[places[i] + 1].item() if i + 1 < len(places) else 0.0
            delta = rewards[i] + a.gamma * following - old_v[places[i]].item()
            advantage = delta + a.gamma * a.lam * advantage
            advantages.insert(0, advantage)
        for i, t in enumerate(places):
            values = (old_v[t].item(), new_v[t].item(), advantages[i] + old_v[t].item())
            tokens.append((advantages[i], (now[t] - old[t]).exp().item(), entropy[t].item(), values))
    mean = sum(t[0] for t in tokens) / len(tokens)
    std = math.sqrt(sum((t[0] - mean) ** 2 for t in tokens) / len(tokens) + 1e-8)
    total = 0.0
    for advantage, ratio, entropy, (old_value, value, returned) in tokens:
        whitened = (advantage - mean) / std
        bounded = min(max(ratio, 1 - a.epsilon), 1 + a.epsilon_high)
        near = old_value + min(max(value - old_value, -0.1), 0.1)
        total += max(-whitened * ratio, -whitened * bounded) - a.entropy_coef * entropy
        total += a.vf_coef * max((value - returned) ** 2, (near - returned) ** 2) / 2
    return total / len(tokens)


def _per_token(model, ids, temperature):
    logps = (model(input_ids=ids[None]).logits[0] / temperature).log_softmax(-1)
    own = torch.cat([torch.zeros(1), logps[:-1].gather(-1, ids[1:, None])[:, 0]])
    return own, torch.cat([torch.zeros(1), -(logps.exp() * logps).sum(-1)[:-1]])


def _plain_values(model, ids):
    critic = model.value_model
    states = critic.backbone(input_ids=ids[None]).last_hidden_state[0]
    return torch.cat([torch.zeros(1), critic.score(states)[:-1, 0]])


@torch.no_grad()
def test_the_loss_by_plain_loops(tokenizer, tmp_path, seed):
    """All terms, in float64, with old and new policy apart, prompts of several lengths, some completions cut off."""
    settings = SETTINGS | {"seed": seed % 1000, "model_init_kwargs": None, "learning_rate": 0.0}
    model = small_model(tokenizer, seed).double()
    run = trainer(tmp_path, tokenizer, model, settings=settings)
    torch.nn.init.normal_(run.value_model.score.weight)
    torch.nn.init.normal_(run.reference.lm_head.weight)
    eos_bias = run.model.lm_head.weight[tokenizer.eos_token_id]
    eos_bias.copy_(5 * eos_bias)  # some completions end by themselves
    policy, reference = copy.deepcopy(run.model), run.reference
    policy.forward, policy.value_model = type(policy).forward.__get__(policy), policy.value_model
    plain_reference = copy.deepcopy(reference)
    plain_reference.forward = type(reference).forward.__get__(plain_reference)
    rollout = first_rollout(run)
    rollout["whole"] = rollout["mask"].clone()
    for p in run.model.parameters():
        p.add_(0.03 * torch.randn_like(p))
    new = copy.deepcopy(run.model)
    new.forward = type(new).forward.__get__(new)
    ids = [row[m.bool()].tolist() for row, m in zip(rollout["input_ids"], rollout["mask"], strict=True)]
    scores = vowels(None, tokenizer.batch_decode(ids, skip_special_tokens=True))
    rollout_for_loss = {name: tensor for name, tensor in rollout.items() if name != "whole"}
    run.buffer.fill(rollout_for_loss)
    # two micro-batches make the rollout, each an update of its own: their sums over their tokens add up to the whole
    parts = [run.buffer.next() for _ in range(2)]
    losses = [run.compute_loss(run.model, part).item() * part["tokens"].item() for part in parts]
    count = rollout["mask"].sum().item()
    expected = plain_loss(run, policy, plain_reference, rollout, scores, new)
    assert sum(losses) / count == pytest.approx(expected, rel=1e-6)


def test_accumulation_computes_what_one_large_batch_does(tokenizer, tmp_path):
    found = []
    for name, size, steps in (("one", 8, 1), ("many", 2, 4)):
        settings = {"per_device_train_batch_size": size, "steps_per_generation": steps, "max_steps": 3}
        settings |= {"gradient_accumulation_steps": steps, "generation_kwargs": {"do_sample": False}}
        run = trainer(tmp_path / name, tokenizer, settings=settings | {"optim": "sgd", "learning_rate": 0.1})
        run.train()
        found.append((weights(run), [row["loss"] for row in run.state.log_history if "loss" in row]))
    assert found[0][1] == pytest.approx(found[1][1], abs=FLOAT)
    assert max((found[0][0][name] - found[1][0][name]).abs().max().item() for name in found[0][0]) < FLOAT


@pytest.mark.slow
def test_the_score_climbs(tokenizer, tmp_path):
    """From random weights, by a score that a few hundred completions suffice for."""
    share = lambda completion_ids, **_: [sum(i < 128 for i in ids) / len(ids) for ids in completion_ids]  # noqa: E731
    settings = {
        "max_steps": 40,
        "learning_rate": 3e-2,
        "per_device_train_batch_size": 16,
        "num_generations": 2,
        "lr_scheduler_type": "constant",
    }
    run = trainer(tmp_path, tokenizer, reward_funcs=share, settings=settings | {"beta": 0.01})
    run.train()
    rewards = [row["reward"] for row in run.state.log_history if "reward" in row]
    assert rewards[0] < 0.4 and rewards[-1] > 0.6


RESUMED = {
    "full": ({}, None),
    "lora": ({"gradient_checkpointing": True}, LORA),
    "ptx": ({"ptx_coef": 0.5, "value_model": "head", "normalize_advantages": False, "num_generations": 2}, None),
}


@pytest.mark.parametrize("name", RESUMED)
def test_it_goes_on_from_a_checkpoint_bit_for_bit(tokenizer, tmp_path, name):
    """From the middle of a rollout, and from between two of them and two epochs over the data."""
    extra, peft = RESUMED[name]
    settings = {"max_steps": 11, "save_strategy": "steps", "save_steps": 1, "kl_target": 0.1, "kl_horizon": 50} | extra
    texts = Dataset.from_dict({"text": ["to be or not to be", "x", "", "that is the question"]})
    more = {"peft_config": peft, "pretraining_dataset": texts if name == "ptx" else None}
    whole = trainer(tmp_path / "whole", tokenizer, settings=settings, **more)
    whole.train()
    assert whole.controller.beta != whole.args.beta
    expected = [row for row in whole.state.log_history if "loss" in row]
    for step in (5, 8) if name == "full" else (5,):
        torch.manual_seed(step)  # nothing may hang on it
        again = trainer(tmp_path / "again", tokenizer, settings=settings | {"save_strategy": "no"}, **more)
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert changed(weights(again), weights(whole)) == []
        found = [row for row in again.state.log_history if "loss" in row]
        figures = ("loss", "reward", "objective/kl_coef", "value/mean", "policy/update_kl")
        assert [[row.get(key) for key in figures] for row in found] == [
            [row.get(key) for key in figures] for row in expected
        ]


def test_evaluation_leaves_training_as_it_is(tokenizer, tmp_path):
    runs = []
    for name, settings in (("without", {}), ("with", {"eval_strategy": "steps", "eval_steps": 3})):
        settings = settings | {"log_completions": True, "num_completions_to_print": 1, "max_steps": 8}
        runs.append(trainer(tmp_path / name, tokenizer, settings=settings, eval_dataset=prompts().select(range(10))))
        runs[-1].train()
    assert changed(weights(runs[0]), weights(runs[1])) == []
    rows = [row for row in runs[1].state.log_history if "eval_reward" in row]
    assert len(rows) == 3 and rows[0]["eval_reward"] == rows[0]["eval_rewards/vowels/mean"]
    table = (tmp_path / "with" / "completions" / "eval-000003.jsonl").read_text().splitlines()
    assert len(table) == 10 and set(json.loads(table[0])) == {"prompt", "completion", "vowels"}
    first, second = runs[1].evaluate(), runs[1].evaluate()
    assert first["eval_reward"] == second["eval_reward"]  # the same completions each time


def test_lora_has_the_policy_without_its_adapter_for_a_reference(tokenizer, tmp_path):
    model = small_model(tokenizer, kind="rhapsode")
    before = copy.deepcopy(model)
    run = trainer(tmp_path, tokenizer, model, peft_config=LORA, settings={"learning_rate": 2e-2})
    assert run.reference is None
    run.train()
    rollout = first_rollout(run)
    with torch.no_grad():
        now = run._score_tokens(run.model, rollout, values=False)["log_probs"]
        k1 = run._divergence(rollout, now)["k1"]
        logits = before(input_ids=rollout["input_ids"], attention_mask=rollout["attention_mask"]).logits
    plain = logits[:, :-1].log_softmax(-1).gather(-1, rollout["input_ids"][:, 1:, None])[..., 0]
    expected = (now[:, 1:] - plain) * rollout["mask"][:, 1:]
    assert expected.abs().max() > 0.01 and (k1[:, 1:] - expected).abs().max() < FLOAT
    run.save_model()
    loaded = PeftModel.from_pretrained(before, tmp_path)  # the adapter alone, for the model as it was
    with torch.no_grad():
        found = loaded(input_ids=rollout["input_ids"], attention_mask=rollout["attention_mask"]).logits
    plain = found[:, :-1].log_softmax(-1).gather(-1, rollout["input_ids"][:, 1:, None])[..., 0]
    assert ((now[:, 1:] - plain) * rollout["mask"][:, 1:]).abs().max() < FLOAT


def test_an_adapter_that_has_learned_is_its_own_reference(tokenizer, tmp_path):
    model = get_peft_model(small_model(tokenizer), copy.deepcopy(LORA))
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.2)
    run = trainer(tmp_path, tokenizer, model, settings={"learning_rate": 2e-2})
    rollout = first_rollout(run)
    assert run._divergence(rollout, rollout["old_logps"])["k1"].abs().max() < FLOAT
    frozen = {name: p.clone() for name, p in run.model.named_parameters() if ".ref." in name}
    run.train()
    assert frozen and all(torch.equal(p, dict(run.model.named_parameters())[name]) for name, p in frozen.items())
    assert any(row.get("objective/kl") for row in run.state.log_history)


def test_the_directory_holds_a_plain_model_and_the_value_model(tokenizer, tmp_path):
    run = trainer(
        tmp_path, tokenizer, small_model(tokenizer, kind="rhapsode"), settings={"gradient_checkpointing": True}
    )
    run.train()
    run.save_model()
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.config.use_cache
    own = run.model.state_dict()
    assert all(torch.equal(weight, own[name]) for name, weight in loaded.state_dict().items())
    run.model.save_pretrained(tmp_path / "by hand")
    assert not any("value_model" in name for name in load_file(tmp_path / "by hand" / "model.safetensors"))
    again = trainer(tmp_path / "more", tokenizer, loaded, settings={"value_model": str(tmp_path)})
    assert changed(dict(again.value_model.state_dict()), dict(run.value_model.state_dict())) == []
    with pytest.raises(ValueError, match=f"no directory with {VALUE_FILE}"):
        trainer(tmp_path / "x", tokenizer, settings={"value_model": str(tmp_path / "nowhere")})


def test_a_step_without_finite_gradients_is_left_out(tokenizer, tmp_path):
    run = trainer(tmp_path, tokenizer, settings={"max_steps": 3, "lr_scheduler_type": "constant"})
    losses, seen = run.compute_loss, []

    def broken(model, inputs, **kwargs):
        seen.append(weights(run))
        loss = losses(model, inputs, **kwargs)
        return loss * (math.nan if len(seen) == 2 else 1.0)

    run.compute_loss = broken
    run.train()
    assert changed(seen[0], seen[1]) and changed(seen[1], seen[2]) == [] and changed(seen[2], weights(run))
    assert run.step_guard.skipped == 1
    broken_run = trainer(tmp_path / "all", tokenizer, settings={"max_skipped_steps": 2})
    whole = broken_run.compute_loss
    broken_run.compute_loss = lambda *args, **kwargs: whole(*args, **kwargs) * math.inf
    with pytest.raises(ValueError, match="3 steps were skipped"):
        broken_run.train()


def test_updates_end_when_the_policy_has_moved_too_far(tokenizer, tmp_path):
    """After a rollout's second update nothing moves, Adam's moments included, until the next rollout."""
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            seen.append({name: p.detach().clone() for name, p in model.named_parameters()})

    settings = {"stop_update_kl": 1e-9, "max_steps": 8, "weight_decay": 0.1}
    run = trainer(tmp_path, tokenizer, settings=settings, callbacks=[Watch()])
    run.train()
    moves = [bool(changed(one, other)) for one, other in itertools.pairwise(seen)]
    assert moves == [True, False, False, True, True, False, False]  # the first update is made at distance zero
    assert run.buffer.step == 8


def test_training_ends_when_the_policy_is_too_far_from_its_reference(tokenizer, tmp_path):
    settings = {"stop_training_kl": 1e-6, "max_steps": 40, "learning_rate": 1e-2}
    run = trainer(tmp_path, tokenizer, settings=settings)
    run.train()
    kls = [row["objective/kl"] for row in run.state.log_history if "objective/kl" in row]
    assert run.state.global_step < 40 and kls[-1] > 1e-6 and all(kl <= 1e-6 for kl in kls[:-1])
    expected = trainer(tmp_path / "same", tokenizer, settings=settings | {"stop_training_kl": None})
    expected.add_callback(EndsAt(run.state.global_step - 1))
    expected.train()
    assert changed(weights(run), weights(expected)) == []  # what was too far was not learned from


def test_pretraining_text_is_learned(tokenizer, tmp_path):
    """With a score that says nothing, only the mix moves the policy; the logged loss is that of the model's own."""
    texts = Dataset.from_dict({"text": ["the same sentence again"]})
    nothing = lambda prompts, **_: [0.0] * len(prompts)  # noqa: E731
    settings = {"ptx_coef": 1.0, "beta": 0.0, "max_steps": 8, "learning_rate": 1e-2}
    run = trainer(tmp_path, tokenizer, reward_funcs=nothing, settings=settings, pretraining_dataset=texts)
    ids = torch.tensor([tokenizer(text=texts[0]["text"], add_special_tokens=False)["input_ids"]])
    before = run.model(input_ids=ids, labels=ids).loss.item()
    run.train()
    losses = [row["loss/ptx"] for row in run.state.log_history if "loss/ptx" in row]
    assert losses[0] == pytest.approx(before, rel=1e-4) and losses[-1] < losses[0] - 1
