"""`rhapsode ppo`: what a run leaves, that it resumes, the judge that looks on, and settings that are refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from rhapsode.recipes import ppo
from rhapsode.recipes.alignment import report
from rhapsode.recipes.alignment.report import is_alignment_run
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.options.ppo import PpoOptions
from rhapsode.recipes.trainers.values import VALUE_FILE
from safetensors.torch import load_file
from small_chats import QUESTIONS, prompts, save_model, save_scorer, user, write_splits
from transformers import AutoModelForCausalLM, AutoTokenizer

FIGURES = ("reward", "entropy", "loss/value", "clip_ratio/region_mean", "objective/kl", "completions/mean_length")


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer_directory) -> str:
    return save_model(tmp_path_factory.mktemp("model"), tokenizer_directory)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> str:
    return write_splits(tmp_path_factory.mktemp("rows"), prompts())


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory, tokenizer_directory) -> str:
    return save_scorer(tmp_path_factory.mktemp("scores"), tokenizer_directory)


@pytest.fixture
def no_picture(monkeypatch):
    """Fifteen panels take longer to draw than these runs."""
    monkeypatch.setattr(report, "plot_metrics", lambda *_: None)


def options(model: str, dataset: str, directory: Path, **others) -> PpoOptions:
    settings = {"max_steps": 6, "learning_rate": 3e-3, "logging_steps": 1, "save_steps": 100, "eval_steps": 3}
    settings |= {"eval_prompts": 4, "max_new_tokens": 8, "max_completion_length": 8, "num_iterations": 2}
    settings |= {"per_device_train_batch_size": 4, "steps_per_generation": 2, "lr_scheduler_type": "constant"}
    if "reward_model" not in others:
        settings["reward_funcs"] = ["judge"]
    return PpoOptions(model=model, dataset=dataset, output_dir=str(directory), bf16=False, **settings | others)


def logged(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_directory_of_a_run_against_a_reward_model(model, rows, reward_model, tmp_path):
    out = tmp_path / "out"
    ppo.run(options(model, rows, out, reward_model=reward_model, missing_eos_penalty=0.5))
    opened, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert opened.config.use_cache and not list(out.glob("*.bin"))
    assert [path.name for path in out.glob("*.safetensors")] == ["model.safetensors"]
    start = load_file(Path(reward_model) / "model.safetensors")
    own = load_file(out / VALUE_FILE)  # it began as the reward model, and has learned
    assert own["score.weight"].shape == start["score.weight"].shape
    assert not torch.equal(own["score.weight"], start["score.weight"])
    assert is_alignment_run(out)
    metrics = logged(out)
    assert [row["step"] for row in metrics if "reward" in row] == [1, 5]  # each rollout is four updates
    assert [row["step"] for row in metrics if "eval_reward" in row] == [3, 6]
    assert set(FIGURES) <= set().union(*metrics)
    results = json.loads((out / "results.json").read_text())
    assert results["kl"] > 0 and results["after"]["n"] == 4 and len(results["samples"]) == 4
    assert results["eval_reward"] == metrics[-1]["eval_reward"]
    assert (
        "held-out reward of sampled answers" in (out / "report.md").read_text()
        and (out / "curves.png").stat().st_size > 0
    )


def test_the_judge_looks_on_and_teaches_nothing(model, rows, reward_model, tmp_path, no_picture):
    """The same run on rows without a reference ends with the same weights."""
    prompts = write_splits(tmp_path / "prompts", [{"prompt": [user(q)]} for q in QUESTIONS])
    for name, data in (("watched", rows), ("alone", prompts)):
        ppo.run(options(model, data, tmp_path / name, reward_model=reward_model, eval_prompts=2, max_steps=4))
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("watched", "alone")]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())
    watched, alone = (set().union(*logged(tmp_path / name)) for name in ("watched", "alone"))
    assert watched - alone == {
        f"{when}rewards/judge_reward/{what}" for when in ("", "eval_") for what in ("mean", "std")
    }
    results = json.loads((tmp_path / "alone" / "results.json").read_text())
    assert "win_rate" not in results and results["kl"] > 0 and len(results["samples"]) == 2


@pytest.mark.parametrize("use_peft", [False, True])
def test_resumed_run_is_the_run_without_a_break(model, rows, tmp_path, no_picture, use_peft):
    out = tmp_path / "out"
    asked = options(model, rows, out, save_steps=3, use_peft=use_peft, eval_prompts=0, kl_target=0.1, kl_horizon=50)
    ppo.run(asked)
    weights, value = load_file(out / "model.safetensors"), load_file(out / VALUE_FILE)
    before = logged(out)
    shutil.rmtree(out / "checkpoints" / "checkpoint-6")
    (out / "model.safetensors").unlink()
    asked.resume = True
    ppo.run(asked)
    resumed = load_file(out / "model.safetensors")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in weights.items())
    assert all(torch.equal(tensor, value[name]) for name, tensor in load_file(out / VALUE_FILE).items())
    assert not list(out.glob("adapter/**/value_model*"))
    times = {"step_time", "tokens_per_second", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}
    assert [{k: v for k, v in row.items() if k not in times} for row in logged(out)] == [
        {k: v for k, v in row.items() if k not in times} for row in before
    ]
    asked.beta = 0.2
    with pytest.raises(UserError, match=r"--resume with beta=0\.2"):
        ppo.run(asked)


def test_text_for_ptx_is_cut_into_rows(model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(model)
    for name, text in (("a", "one two three four five six seven"), ("b", "x")):
        (tmp_path / f"{name}.txt").write_text(text * 3)
    found = list(ppo.pretraining_rows(str(tmp_path), tokenizer, 4))
    assert found and all(2 <= len(row) <= 4 for row in found)
    whole = tokenizer.decode([i for row in found for i in row], skip_special_tokens=True)
    assert "one two three four five six sevenone two" in whole


def test_ptx_beside_the_rollouts(model, rows, tmp_path, no_picture):
    (tmp_path / "text.txt").write_text("a line of text\n" * 200)
    text = {"pretraining_dataset": str(tmp_path / "text.txt"), "ptx_coef": 0.5, "ptx_max_length": 16}
    ppo.run(options(model, rows, tmp_path / "out", eval_prompts=0, **text))
    losses = [row["loss/ptx"] for row in logged(tmp_path / "out") if "loss/ptx" in row]
    assert losses[-1] < losses[0] - 0.5
    with pytest.raises(UserError, match=r"--pretraining_dataset .*nowhere.txt: no such file"):
        ppo.run(options(model, rows, tmp_path / "no", **text | {"pretraining_dataset": str(tmp_path / "nowhere.txt")}))
    with pytest.raises(UserError, match=r"--ptx_max_length 129 is longer than the model's 128 positions"):
        ppo.run(options(model, rows, tmp_path / "no", **text | {"ptx_max_length": 129}))
    assert not (tmp_path / "no").exists()


def test_the_judge_needs_a_reference(model, tmp_path):
    prompts = write_splits(tmp_path / "prompts", [{"prompt": [user(q)]} for q in QUESTIONS])
    with pytest.raises(UserError, match="no column 'reference', which the reward judge_reward reads"):
        ppo.run(options(model, prompts, tmp_path / "out"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"reward_funcs": []}, "--reward_model or --reward_funcs says what a good answer is"),
        ({"reward_weights": [1.0, 2.0]}, r"--reward_weights 1.0 2.0: there are 1 rewards; give as many"),
        ({"reward_weights": [0.0]}, "--reward_weights are all 0"),
        ({"reward_clip_range": [1.0]}, "takes two numbers"),
        ({"ptx_coef": 1.0}, "--ptx_coef 1.0 with --pretraining_dataset none"),
        ({"steps_per_generation": 4}, "12 prompts, but a rollout takes 16"),
        ({"max_completion_length": 125}, "a row may have 3; raise --max_length"),
        ({"beta": 0.0, "kl_target": 3.0}, "kl_target needs a reference model"),
        ({"value_model": "runs/nowhere"}, "value_model='runs/nowhere' is none of auto, head"),
        ({"gradient_accumulation_steps": 3}, "not a multiple of gradient_accumulation_steps"),
    ],
)
def test_faults_are_one_line(model, rows, tmp_path, wrong, message):
    with pytest.raises(UserError, match=message):
        ppo.run(options(model, rows, tmp_path / "out", **wrong))
