"""Rewards for sampled answers by trl: what is refused, what a run leaves, the reference, resume, and that it learns."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rhapsode import RhapsodeForSequenceClassification
from rhapsode.recipes import grpo, rloo
from rhapsode.recipes.alignment import online
from rhapsode.recipes.alignment.ranking import rewards
from rhapsode.recipes.alignment.report import is_alignment_run
from rhapsode.recipes.alignment.training import arguments, build, prepare
from rhapsode.recipes.options.base import UserError, parse
from rhapsode.recipes.options.distill import DistillOptions
from rhapsode.recipes.options.grpo import GrpoOptions
from rhapsode.recipes.options.kto import KtoOptions
from rhapsode.recipes.options.online import OnlineOptions
from rhapsode.recipes.options.rloo import RlooOptions
from rhapsode.tokenization import encode_conversation
from safetensors.torch import load_file, save_file
from small_chats import QUESTIONS, prompts, save_model, save_scorer, user, write_splits
from transformers import AutoModelForCausalLM, AutoTokenizer

SAME = 1e-5  # a float32 score, padded and not padded

COMMANDS = [(grpo, GrpoOptions), (rloo, RlooOptions)]
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer_directory) -> str:
    return save_model(tmp_path_factory.mktemp("model"), tokenizer_directory)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> str:
    return write_splits(tmp_path_factory.mktemp("rows"), prompts())


@pytest.fixture(scope="module")
def low(tmp_path_factory) -> str:
    """A reward function in a file: the share of tokens in the lower half of the vocabulary."""
    path = tmp_path_factory.mktemp("rewards") / "low.py"
    path.write_text(
        "def low(completion_ids, **kwargs):\n"
        "    return [sum(i < 256 for i in ids) / len(ids) for ids in completion_ids]\n"
    )
    return f"{path}:low"


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory, tokenizer_directory) -> str:
    return save_scorer(tmp_path_factory.mktemp("scores"), tokenizer_directory)


def options(kind: type, model: str, dataset: str, directory: Path, **others):
    settings = {"max_steps": 4, "learning_rate": 3e-3, "logging_steps": 1, "eval_steps": 100, "eval_prompts": 2}
    settings |= {"max_new_tokens": 8, "max_completion_length": 8, "num_generations": 4, "max_eval_samples": 4}
    settings |= {"per_device_train_batch_size": 8, "lr_scheduler_type": "constant", "reward_funcs": ["judge"]}
    return kind(model=model, dataset=dataset, output_dir=str(directory), bf16=False, **settings | others)


def logged(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def built(recipe, asked, monkeypatch):
    """The trainer that a run would train."""
    given = []
    monkeypatch.setattr(online, "align", lambda *arguments: given.extend(arguments))
    recipe.run(asked)
    command, asked, open, read, trainer_class, settings, rate = given
    job = prepare(command, asked, open, read)
    config_class, own = settings(job)
    return build(job, trainer_class, arguments(job, config_class, rate, **own))


@pytest.mark.parametrize(("recipe", "kind"), [pytest.param(*COMMANDS[0], marks=SLOW), COMMANDS[1]])
def test_directory_of_a_run(model, rows, low, tmp_path, recipe, kind):
    out = tmp_path / "out"
    recipe.run(options(kind, model, rows, out, reward_funcs=[low], reward_weights=[0.5], beta=0.1))
    opened, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert opened.config.use_cache and is_alignment_run(out)
    metrics = logged(out)
    assert [row["step"] for row in metrics if "reward" in row] == [1, 2, 3, 4]
    for row in metrics:
        for when in ("", "eval_"):
            if f"{when}reward" in row:
                assert row[f"{when}reward"] == pytest.approx(0.5 * row[f"{when}rewards/low/mean"], abs=1e-6)
                assert {
                    f"{when}{key}" for key in ("kl", "completions/mean_length", "rewards/judge_reward/mean")
                } <= set(row)
    results = json.loads((out / "results.json").read_text())
    assert results["kl"] > 0 and results["after"]["n"] == 2 and "eval_loss" not in results
    assert results["eval_reward"] == [row for row in metrics if "eval_reward" in row][-1]["eval_reward"]
    assert "held-out reward of sampled answers" in (out / "report.md").read_text()
    assert (out / "curves.png").stat().st_size > 0


@pytest.mark.parametrize(("recipe", "kind"), [COMMANDS[0], pytest.param(*COMMANDS[1], marks=SLOW)])
def test_reward_rises(model, rows, low, tmp_path, recipe, kind):
    """From a half, to which chance brings 32 answers of 8 tokens within .03, a standard deviation."""
    out = tmp_path / "out"
    sizes = {"max_steps": 10, "per_device_train_batch_size": 32, "num_generations": 8, "save_steps": 10}
    more = {"warmup_steps": 0, "eval_prompts": 0, "learning_rate": 2e-2, "beta": 0.0}
    recipe.run(options(kind, model, rows, out, reward_funcs=[low], **sizes, **more))
    rewards = [row["reward"] for row in logged(out) if "reward" in row]
    assert rewards[0] < 0.5 + 4 * 0.03 < 0.5 + 6 * 0.03 < rewards[-1]
    AutoModelForCausalLM.from_pretrained(out)


@pytest.mark.parametrize(
    ("recipe", "kind", "use_peft"), [(grpo, GrpoOptions, True), pytest.param(rloo, RlooOptions, False, marks=SLOW)]
)
def test_resumed_run_is_the_run_without_a_break(model, rows, low, tmp_path, recipe, kind, use_peft):
    """Two rollouts an epoch, each of two steps; the break is in the second epoch, and evaluations change nothing."""
    out = tmp_path / "out"
    same = {"max_samples": 4, "num_iterations": 2, "max_steps": 10, "save_steps": 6, "eval_prompts": 0, "eval_steps": 7}
    asked = options(kind, model, rows, out, reward_funcs=[low], beta=0.1, use_peft=use_peft, **same)
    recipe.run(asked)
    weights, before = load_file(out / "model.safetensors"), logged(out)
    shutil.rmtree(out / "checkpoints" / "checkpoint-10")
    (out / "model.safetensors").unlink()
    asked.resume, asked.max_eval_samples = True, 2
    recipe.run(asked)
    resumed = load_file(out / "model.safetensors")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in weights.items())
    times = {"step_time", "tokens_per_second"}
    rows_before, rows_after = (
        [{k: v for k, v in row.items() if k not in times} for row in log if "loss" in row]
        for log in (before, logged(out))
    )
    assert rows_before == rows_after and len(rows_after) == 10


def test_epochs_have_orders_of_their_own(model, rows, low, tmp_path, monkeypatch):
    trainer = built(grpo, options(GrpoOptions, model, rows, tmp_path / "out", reward_funcs=[low]), monkeypatch)
    orders = []
    for epoch in (0.0, 0.5, 1.0):
        trainer.state.epoch = epoch
        orders.append(list(trainer._get_train_sampler()))
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(orders[2])


@pytest.mark.parametrize(("recipe", "kind"), COMMANDS)
def test_reference_is_where_the_model_came_from(model, rows, low, tmp_path, monkeypatch, recipe, kind):
    """Also after the directory has been moved, and without a second copy where adapters can be switched off."""
    moved = shutil.copytree(model, tmp_path / "moved")
    config = json.loads((moved / "config.json").read_text()) | {"_name_or_path": model}
    (moved / "config.json").write_text(json.dumps(config))
    weights = load_file(moved / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, moved / "model.safetensors", {"format": "pt"})
    asked = options(kind, str(moved), rows, tmp_path / "out", reward_funcs=[low], beta=0.1)
    trainer = built(recipe, asked, monkeypatch)
    for name, tensor in trainer.ref_model.state_dict().items():
        assert torch.equal(tensor, trainer.model.state_dict()[name]), name
    assert torch.equal(trainer.ref_model.state_dict()["model.norm.weight"], weights["model.norm.weight"] + 1)
    for i, without in enumerate(({"use_peft": True}, {"beta": 0.0})):
        other = replace(asked, output_dir=str(tmp_path / f"without{i}"), **without)
        assert built(recipe, other, monkeypatch).ref_model is None


@pytest.mark.parametrize(("recipe", "kind"), COMMANDS)
def test_reward_model_reads_what_it_was_trained_on(model, rows, reward_model, tmp_path, monkeypatch, recipe, kind):
    trainer = built(
        recipe, options(kind, model, rows, tmp_path / "out", reward_funcs=[reward_model, "judge"]), monkeypatch
    )
    scorer, seen, said = trainer.reward_funcs[0], [], []

    def listen(module, args, kwargs):
        masks = zip(kwargs["input_ids"].tolist(), kwargs["attention_mask"].tolist(), strict=True)
        seen.extend([i for i, real in zip(ids, mask, strict=True) if real] for ids, mask in masks)

    def record(prompts, completions, **kwargs):
        said.extend(p + c for p, c in zip(prompts, completions, strict=True))
        return [0.0] * len(prompts)

    trainer.accelerator.unwrap_model(scorer).register_forward_pre_hook(listen, with_kwargs=True)
    trainer.reward_funcs[1] = record
    logs = trainer.evaluate()
    assert len(seen) == len(said) == 4 and len({len(ids) for ids in seen}) > 1, "padding is needed"
    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    assert seen == [encode_conversation(tokenizer, chat)["input_ids"] for chat in said]
    assert all(ids[-1] == tokenizer.eos_token_id and ids.count(tokenizer.bos_token_id) == 1 for ids in seen)
    alone = rewards(RhapsodeForSequenceClassification.from_pretrained(reward_model), tokenizer, said, 1)
    name = f"eval_rewards/{Path(reward_model).name}/mean"
    assert logs[name] == pytest.approx(alone.mean().item(), abs=SAME)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_generations": 1}, "--num_generations 1 has nothing to compare"),
        ({"num_generations": 3}, r"a rollout has 8 answers \(--per_device_train_batch_size 8 x .* use 2, 4 or 8"),
        ({"gradient_accumulation_steps": 2, "steps_per_generation": 3}, r"in 3 forward passes .* use 1 or 3"),
        ({"num_iterations": 2, "save_steps": 3}, "--save_steps 3 is within a rollout, which lasts 2 steps"),
        ({"steps_per_generation": 8}, "12 prompts, but a rollout takes 16"),
        ({"max_completion_length": 125}, "a row may have 3; raise --max_length"),
        ({"reward_funcs": []}, "--reward_funcs: say what a good answer to the prompts of"),
        ({"reward_weights": [1.0, 2.0]}, r"--reward_weights 1.0 2.0: there are 1 --reward_funcs; give as many"),
        ({"reward_weights": [0.0]}, "--reward_weights are all 0"),
        ({"temperature": 0.0}, "--temperature 0.0 must be above 0"),
        ({"beta": -1.0}, "--beta -1.0 must not be negative"),
    ],
)
def test_faults_are_one_line(model, rows, tmp_path, wrong, message):
    with pytest.raises(UserError, match=message):
        grpo.run(options(GrpoOptions, model, rows, tmp_path / "out", **wrong))
    assert not (tmp_path / "out").exists()


def test_batches_are_checked_before_anything_is_opened(tmp_path):
    with pytest.raises(UserError, match="--num_generations 3"):
        grpo.run(options(GrpoOptions, "nowhere", "nowhere.jsonl", tmp_path / "out", num_generations=3))


def test_processes_share_a_rollout(monkeypatch, tmp_path):
    asked = options(GrpoOptions, "nowhere", "stdlib", tmp_path, per_device_train_batch_size=3, num_generations=2)
    with pytest.raises(UserError, match="a rollout has 3 answers"):
        online.check_batches(asked)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert online.check_batches(asked) == (3, 1)


@pytest.mark.parametrize(("epochs", "rows", "expected"), [(1, 25, 4), (5, 25, 12), (0.1, 25, 4)])
def test_checkpoints_fall_on_the_ends_of_rollouts(tmp_path, epochs, rows, expected):
    asked = options(GrpoOptions, "nowhere", "stdlib", tmp_path, max_steps=None, num_train_epochs=epochs)
    assert online.save_steps(asked, online.Rollout(prompts=8, steps=4), rows) == expected


def test_token_for_padding_needs_the_reference_to_have_it(model, tmp_path):
    asked = options(GrpoOptions, model, "stdlib", tmp_path / "out", beta=0.1)
    grown = AutoModelForCausalLM.from_pretrained(model)
    online.check_reference(SimpleNamespace(options=asked, model=grown))
    grown.resize_token_embeddings(grown.config.vocab_size + 1)
    online.check_reference(SimpleNamespace(options=replace(asked, use_peft=True), model=grown))
    with pytest.raises(UserError, match=r"--beta 0\.1: the model got a token for padding"):
        online.check_reference(SimpleNamespace(options=asked, model=grown))


def test_columns_that_a_reward_reads(model, tmp_path):
    data = write_splits(tmp_path / "rows", [{"prompt": [user(q)]} for q in QUESTIONS])
    with pytest.raises(UserError, match="no column 'reference', which the reward judge_reward reads"):
        grpo.run(options(GrpoOptions, model, data, tmp_path / "out"))


@pytest.mark.parametrize(
    ("name", "kind"), [("grpo", GrpoOptions), ("rloo", RlooOptions), ("distill", DistillOptions), ("kto", KtoOptions)]
)
def test_configurations_are_legal(name, kind):
    path = Path(online.__file__).parents[1] / "configs" / f"{name}.yaml"
    assert path.read_text().startswith(f"# rhapsode {name} --config recipes/configs/{name}.yaml\n")
    asked = parse(kind, ["--config", str(path)], "rhapsode", "")
    if isinstance(asked, OnlineOptions):
        assert online.check_batches(asked).prompts > 1
