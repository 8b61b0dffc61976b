"""The assistant: a small base model, SFT, pairs of its own answers, reward model, PPO, DPO (Ouyang et al. 2022,
arXiv:2203.02155; Rafailov et al. 2023, arXiv:2305.18290).

It has a base model of its own. Most of the demo's base model is a vocabulary of 24,576, which gives the fewest bits per
byte in a few minutes, and takes four times the arithmetic for the same question and answer.

Every answer is measured in one way: greedily, on the same questions in words that no stage has seen, half of them about
objects that SFT has learned and half about invented names that no stage has seen.
"""

import json
import random
from pathlib import Path

from transformers import set_seed

from .. import dpo as dpo_command
from .. import ppo as ppo_command
from .. import pretrain
from .. import reward as reward_command
from .. import sft as sft_command
from ..alignment.answering import answer, divergence, encode_prompts, place, texts
from ..alignment.datasets import preference_dataset, prompt_dataset
from ..alignment.judge import measure
from ..alignment.preferences import sampled_pairs
from ..options.base import parse
from ..options.demo import DemoOptions
from ..options.dpo import DpoOptions
from ..options.ppo import PpoOptions
from ..options.pretrain import PretrainOptions
from ..options.reward import RewardOptions
from ..options.sft import SftOptions
from ..training.setup import load_model, load_tokenizer

CONFIGS = Path(__file__).parent.parent / "configs"
LONGEST_ANSWER = 48  # tokens
PROMPTS, SAMPLES = 600, 4  # of which pairs are made, and answers to each
OTHERS = 600  # pairs with the answer to another question, which lift the reward model and hurt DPO
QUESTIONS, DRAWN = 400, 100  # of the measurement: answered, and of them those on which KL is estimated
BATCH = 64


def chat_base(options: DemoOptions) -> dict:
    asked = parsed(PretrainOptions, "chat_base", options)
    asked.max_steps = shortened(asked.max_steps, options)
    pretrain.run(asked)
    return results(options, "chat_base", "parameters", "tokens", "eval_bits_per_byte")


def sft(options: DemoOptions) -> dict:
    asked = parsed(SftOptions, "sft", options, model="chat_base", dataset=questions(options))
    asked.num_train_epochs *= options.effort
    sft_command.run(asked)
    return results(options, "sft", "seconds")


def pairs(options: DemoOptions) -> dict:
    """Answers of the SFT model in pairs, ranked by the judge; for the reward model others' answers among them."""
    model, tokenizer = opened(options, "sft")
    rows = list(prompt_dataset(questions(options), "train", options.seed, shortened(PROMPTS, options)))
    ids = encode_prompts(tokenizer, [row["prompt"] for row in rows])
    set_seed(options.seed)
    drawn = [answer(model, tokenizer, ids, LONGEST_ANSWER, BATCH, do_sample=True, top_k=0) for _ in range(SAMPLES)]
    sampled = sampled_pairs(rows, list(zip(*(texts(tokenizer, ids) for ids in drawn), strict=True)), options.seed)
    count = shortened(OTHERS, options)
    others = preference_dataset(questions(options), "train", options.seed, count, kinds=("another",)).to_list()
    both = [*sampled, *({key: row[key] for key in sampled[0]} for row in others)]
    random.Random(options.seed).shuffle(both)
    for name, found in (("dpo", sampled), ("reward", both)):
        path = Path(options.output_dir, "pairs", f"{name}.jsonl")
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return {"sampled": len(sampled), "of_others": len(others)}


def reward(options: DemoOptions) -> dict:
    dataset = f"{options.output_dir}/pairs/reward.jsonl"
    reward_command.run(parsed(RewardOptions, "reward", options, model="sft", dataset=dataset))
    return results(options, "reward", "accuracy", "pairs")


def dpo(options: DemoOptions) -> dict:
    dataset = f"{options.output_dir}/pairs/dpo.jsonl"
    dpo_command.run(parsed(DpoOptions, "dpo", options, model="sft", dataset=dataset))
    return results(options, "dpo", "seconds")


def ppo(options: DemoOptions) -> dict:
    rewards = f"{options.output_dir}/reward"
    asked = parsed(PpoOptions, "ppo", options, model="sft", dataset=questions(options), reward_model=rewards)
    asked.max_steps = shortened(asked.max_steps, options)
    ppo_command.run(asked)
    return results(options, "ppo", "seconds", "eval_reward")


def measure_answers(options: DemoOptions, name: str) -> dict:
    """`measure` of the judge, and the KL from the SFT model, of the model in the directory."""
    model, tokenizer = opened(options, name)
    rows = list(prompt_dataset(questions(options), "rephrased", limit=shortened(QUESTIONS, options)))
    ids = encode_prompts(tokenizer, [row["prompt"] for row in rows])
    found = measure(rows, texts(tokenizer, answer(model, tokenizer, ids, LONGEST_ANSWER, BATCH)))
    if name == "sft":
        return found | {"kl": 0.0, "kl_standard_error": 0.0}
    reference, _ = opened(options, "sft")
    kl, error = divergence(model, reference, tokenizer, ids[:DRAWN], LONGEST_ANSWER, BATCH, options.seed)
    return found | {"kl": kl, "kl_standard_error": error}


def chat(options: DemoOptions) -> dict:
    """The first plain question of each kind: in words of the training data, in other words, about nothing."""
    model, tokenizer = opened(options, "ppo")
    asked = {
        "real": first(options, "train", True),
        "in other words": first(options, "rephrased", True),
        "invented": first(options, "rephrased", False),
    }
    ids = encode_prompts(tokenizer, [row["prompt"] for row in asked.values()])
    said = texts(tokenizer, answer(model, tokenizer, ids, LONGEST_ANSWER, BATCH))
    return {
        kind: {"question": row["prompt"][-1]["content"], "answer": text, "reference": row["reference"]}
        for (kind, row), text in zip(asked.items(), said, strict=True)
    }


def first(options: DemoOptions, split: str, is_real: bool) -> dict:
    rows = prompt_dataset(questions(options), split, options.seed)
    return next(row for row in rows if row["is_real"] == is_real and row["style"] == "plain")


def questions(options: DemoOptions) -> str:
    return f"stdlib:{options.objects}"


def opened(options: DemoOptions, name: str):
    directory = f"{options.output_dir}/{name}"
    return place(load_model(directory)), load_tokenizer(directory)


def parsed(options_class: type, name: str, options: DemoOptions, **others):
    """The options of a station's command: its configuration and what the demo has otherwise; `model` is a station."""
    if "model" in others:
        others["model"] = f"{options.output_dir}/{others['model']}"
    given = {"config": CONFIGS / f"{name}.yaml", "output_dir": f"{options.output_dir}/{name}", "seed": options.seed}
    flags = [part for key, value in (given | others).items() for part in (f"--{key}", str(value))]
    return parse(options_class, [*flags, "--overwrite_output_dir"], "rhapsode demo", None)


def shortened(count: int, options: DemoOptions) -> int:
    return max(1, round(count * options.effort))


def results(options: DemoOptions, name: str, *keys: str) -> dict:
    found = json.loads(Path(options.output_dir, name, "results.json").read_text(encoding="utf-8"))
    return {key: found[key] for key in keys}
