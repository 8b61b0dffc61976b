"""PPO beside trl's RLOO and GRPO on a reward that a program checks: at equal samples, at equal time, at equal KL.

    python tests/recipes/ppo_comparison.py --work DIR                     every method, five seeds, and the tables
    python tests/recipes/ppo_comparison.py --work DIR --methods ppo --seeds 0
    PYTHONPATH=OLD python tests/recipes/ppo_comparison.py --work DIR --methods trl-1.12
        after pip install --no-deps --target OLD trl==1.12: the last release with a PPO

The task: ten times the share of vowels in an answer of at most 24 tokens, from a model of 430 thousand parameters that
has read answers about the standard library. It is made first, by `rhapsode sft`. All runs get 8 rollouts of 64
answers (--rollouts), two passes over each, a rate of 5e-4 and a KL coefficient of 0.05, in the reward for PPO and RLOO,
in the loss for GRPO. What is compared is measured apart from the trainers, before and after every fourth rollout: on 48
held-out prompts the mean reward, and the KL from the start, exact at every token that was sampled. Time is that of one
thread of the processor, without these measurements.
"""

import argparse
import json
import statistics
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.alignment.answering import answer, divergence, encode_prompts, texts
from rhapsode.recipes.alignment.datasets import prompt_dataset, sft_dataset
from rhapsode.tokenization import token_ids
from rhapsode.tokenization.training import train_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

EVERY, SIZE, MICRO, TOKENS, PROMPTS = 4, 64, 16, 24, 48
DATA = "stdlib:800"
COMMON = {
    "per_device_train_batch_size": MICRO,
    "learning_rate": 5e-4,
    "lr_scheduler_type": "constant",
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}
ONLINE = {"steps_per_generation": SIZE // MICRO, "num_iterations": 2, "max_completion_length": TOKENS, "beta": 0.05}
METHODS = {
    "ppo": {},
    "ppo, 2 updates a rollout": {"gradient_accumulation_steps": SIZE // MICRO},
    "ppo, gradients not clipped": {"max_grad_norm": 1e9},
    "rloo": {"num_generations": 4},
    "grpo": {"num_generations": 4},
    "trl-1.12": {},
    "trl-1.12, gradients clipped": {"max_grad_norm": 1.0},
}
OLD = {  # the names of 1.12; four micro-batches make an update, as in "2 updates a rollout"
    "gradient_accumulation_steps": SIZE // MICRO,
    "num_mini_batches": SIZE // MICRO,
    "num_ppo_epochs": 2,
    "response_length": TOKENS,
    "stop_token": "eos",
    "temperature": 1.0,
    "kl_coef": 0.05,
    "vf_coef": 0.5,
    "num_sample_generations": 0,
}


def score(text: str) -> float:
    text = text.strip()
    return 10 * sum(letter in "aeiou" for letter in text) / max(len(text), 8)


def vowels(completions, **kwargs) -> list[float]:
    return [score(completion[0]["content"]) for completion in completions]


def make_base(directory: Path) -> None:
    """A model that answers, from nothing, in about a minute and a half."""
    from rhapsode.recipes import sft
    from rhapsode.recipes.options.sft import SftOptions

    rows = (m["content"] for row in sft_dataset(DATA) for m in row["messages"])
    tokenizer = train_tokenizer(rows, vocab_size=1024, show_progress=False)
    torch.manual_seed(0)
    sizes = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 256}
    config = RhapsodeConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **sizes, **token_ids(tokenizer))
    new = directory.with_name("new")
    RhapsodeForCausalLM(config).save_pretrained(new)
    tokenizer.save_pretrained(new)
    settings = {"learning_rate": 2e-3, "max_steps": 250, "per_device_train_batch_size": 24, "eval_prompts": 0}
    sft.run(SftOptions(model=str(new), dataset=DATA, output_dir=str(directory), max_eval_samples=64, **settings))


class Watch(TrainerCallback):
    """Reward and KL on held-out prompts after every so many rollouts, with the clock standing still."""

    def __init__(self, base: str, prompts: list, steps: int):
        self.tokenizer, self.steps = AutoTokenizer.from_pretrained(base), steps  # of the optimizer, in a rollout
        self.reference = AutoModelForCausalLM.from_pretrained(base).eval()
        self.ids = encode_prompts(self.tokenizer, prompts)
        self.points, self.paused = [], 0.0

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.begin = time.process_time()
        self.note(0, model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        rollouts, rest = divmod(state.global_step, self.steps)
        if rest == 0 and rollouts % EVERY == 0:
            self.note(rollouts, model)

    def note(self, rollouts: int, model) -> None:
        start = time.process_time()
        with torch.random.fork_rng():
            found = self.measure(getattr(model, "policy", model))
        self.points.append({"rollouts": rollouts, "seconds": start - self.begin - self.paused, **found})
        self.paused += time.process_time() - start

    def measure(self, model) -> dict:
        was_training = model.training
        model.eval()
        torch.manual_seed(1)
        sampled = answer(model, self.tokenizer, self.ids, TOKENS, PROMPTS, do_sample=True, top_k=0)
        scores = map(score, texts(self.tokenizer, sampled))
        kl, _ = divergence(model, self.reference, self.tokenizer, self.ids, TOKENS, PROMPTS, 1)
        model.train(was_training)
        return {"reward": statistics.mean(scores), "kl": kl}


def run(method: str, seed: int, work: Path, rollouts: int, settings: dict) -> dict:
    """Train once; the points that were measured."""
    base, train = str(work / "base"), Dataset.from_dict({"prompt": questions("train")[:1000]})
    own = METHODS[method] | settings
    a_step = 1 if method.startswith("trl") else 2 * SIZE // MICRO // own.get("gradient_accumulation_steps", 1)
    watch = Watch(base, questions("validation")[:PROMPTS], a_step)
    common = COMMON | {"output_dir": str(work / "out"), "seed": seed}
    if method.startswith("trl"):
        trainer = old_ppo(base, train, common | OLD | {"total_episodes": rollouts * SIZE} | own, watch)
    else:
        trainer = online(method, base, train, common | ONLINE | {"max_steps": rollouts * a_step} | own, watch)
    trainer.train()
    return {"method": method, "seed": seed, "settings": settings, "points": watch.points}


@cache
def questions(split: str) -> list:
    return [row["prompt"] for row in prompt_dataset(DATA, split) if row["style"] == "plain"]


def online(method: str, base: str, train: Dataset, settings: dict, watch: Watch):
    from rhapsode.trainers import PPOConfig, PPOTrainer
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    kinds = {"rloo": (RLOOConfig, RLOOTrainer), "grpo": (GRPOConfig, GRPOTrainer)}
    config, trainer = kinds.get(method, (PPOConfig, PPOTrainer))
    tokenizer = AutoTokenizer.from_pretrained(base)
    logging = {"logging_steps": 1 if config is PPOConfig else 8}
    return trainer(base, vowels, config(**logging | settings), train, processing_class=tokenizer, callbacks=[watch])


def old_ppo(base: str, train: Dataset, settings: dict, watch: Watch):
    """The trainer of trl 1.12 takes ids and a reward model: here a network whose hidden states are the scores."""
    import trl
    from transformers import AutoModelForSequenceClassification
    from transformers.modeling_outputs import BaseModelOutput
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    assert trl.__version__ == "1.12.0", "set PYTHONPATH to the folder that holds trl 1.12"
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")

    class Trunk(torch.nn.Module):
        def forward(self, input_ids=None, **kwargs):
            rows = tokenizer.batch_decode([[i for i in r if i != tokenizer.pad_token_id] for r in input_ids.tolist()])
            said = [row.rsplit("assistant", 1)[-1].split("|>", 1)[-1].replace(tokenizer.eos_token, "") for row in rows]
            scores = torch.tensor([score(text) for text in said])
            return BaseModelOutput(hidden_states=[scores[:, None, None].expand(-1, input_ids.size(1), 1)])

    class Scorer(torch.nn.Module):
        base_model_prefix = "trunk"

        def __init__(self):
            super().__init__()
            self.trunk, self.unused = Trunk(), torch.nn.Parameter(torch.zeros(1))

        def score(self, hidden):
            return hidden

    policy, reference = (AutoModelForCausalLM.from_pretrained(base) for _ in range(2))
    value = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    torch.nn.init.zeros_(value.score.weight)
    rows = Dataset.from_dict({"input_ids": encode_prompts(tokenizer, train["prompt"])})
    clip = settings.pop("max_grad_norm", None)
    trainer = PPOTrainer(
        PPOConfig(logging_steps=1, **settings),
        tokenizer,
        *(policy, reference, Scorer(), rows, value),
        eval_dataset=rows.select(range(8)),
        callbacks=[watch],
    )
    if clip:
        step = trainer.optimizer.step

        def clipped(*args, **kwargs):
            torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), clip)
            return step(*args, **kwargs)

        trainer.optimizer.step = clipped
    return trainer


def at_equal_kl(run: dict, kl: float) -> float:
    """The reward at this KL, between two points linear in sqrt(KL); NaN where the run never came so far.

    Rewards are nearly so where over-optimisation has not begun (Gao et al. 2022, arXiv:2210.10760).
    """
    rewards, kls = np.array([(point["reward"], point["kl"]) for point in run["points"]]).T
    return float(np.interp(kl**0.5, kls**0.5, rewards, right=np.nan))


def at_seconds(run: dict, seconds: float) -> float:
    points = run["points"]
    return float(np.interp(seconds, [p["seconds"] for p in points], [p["reward"] for p in points]))


def tables(runs: list[dict], kl: float) -> str:
    """Means and standard errors over the seeds."""
    by_method = {}
    for found in runs:
        name = found["method"] + (f" {found['settings']}" if found["settings"] else "")
        by_method.setdefault(name, []).append(found)
    least = min(found["points"][-1]["seconds"] for found in runs)
    heads = ["method", "seeds", "reward", "KL", "reward - 0.05 KL", "seconds", f"reward after {least:.0f} s"]
    heads += [f"reward at KL {kl:g}"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, group in by_method.items():
        last = [found["points"][-1] for found in group]
        columns = [[p["reward"] for p in last], [p["kl"] for p in last], [p["reward"] - 0.05 * p["kl"] for p in last]]
        columns += [[p["seconds"] for p in last], [at_seconds(found, least) for found in group]]
        columns += [[value for found in group if not np.isnan(value := at_equal_kl(found, kl))]]
        lines.append(f"| {name} | {len(group)} | " + " | ".join(map(_mean, columns)) + " |")
    return "\n".join(lines)


def _mean(values: list[float]) -> str:
    if not values:
        return "-"
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.2f} ± {error:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--methods", nargs="*", default=["ppo", "rloo", "grpo"], choices=METHODS)
    parser.add_argument("--seeds", nargs="*", type=int, default=list(range(5)))
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--kl", type=float, default=4.0, help="nats an answer, at which the methods are compared")
    parser.add_argument("--settings", type=json.loads, default={}, help="further ones, as JSON")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bars()
    asked.work.mkdir(parents=True, exist_ok=True)
    if not (asked.work / "base" / "model.safetensors").exists():
        make_base(asked.work / "base")
    results = asked.work / "results.jsonl"
    for seed in asked.seeds:
        for method in asked.methods:
            found = run(method, seed, asked.work, asked.rollouts, asked.settings)
            with results.open("a") as stream:
                stream.write(json.dumps(found) + "\n")
    print(tables([json.loads(line) for line in results.read_text().splitlines()], asked.kl))


if __name__ == "__main__":
    main()
