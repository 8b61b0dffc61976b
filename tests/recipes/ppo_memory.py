"""How much memory the set-ups of PPO take: parameters, and the peak of a run's resident memory.

    python tests/recipes/ppo_memory.py

Four models of one size (policy, value model, reference, reward model), each in a copy of its own, are what InstructGPT
describes. Sharing the trunk between policy and value model saves one, an adapter that can be switched off saves the
reference, and a reward that is a function the last. Each run is a process of its own: two rollouts of eight answers, in
float32, by AdamW. What the imports take is subtracted.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile

SETUPS = {
    "four models": {"value_model": "reward"},
    "value head on the policy's trunk": {"value_model": "head"},
    "the same, LoRA": {"value_model": "head", "lora": True},
    "the same, the reward a function": {"value_model": "head", "lora": True, "function": True},
}


def run(value_model: str, lora: bool = False, function: bool = False) -> dict:
    """Train, and return the number of parameters of all models, of the trained ones, and bytes."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from rhapsode import RhapsodeConfig, RhapsodeForCausalLM, RhapsodeForSequenceClassification
    from rhapsode.tokenization import token_ids
    from rhapsode.tokenization.training import train_tokenizer
    from rhapsode.trainers import PPOConfig, PPOTrainer

    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tokenizer = train_tokenizer(["a few words and others"] * 20, vocab_size=300, show_progress=False)
    sizes = {"vocab_size": len(tokenizer), "num_labels": 1, **token_ids(tokenizer)}
    config = RhapsodeConfig.from_preset("rhapsode-50m", **sizes)
    reward = (lambda completions, **_: [0.0] * len(completions)) if function else None
    with tempfile.TemporaryDirectory() as directory:
        args = PPOConfig(
            directory,
            use_cpu=True,
            value_model=value_model,
            per_device_train_batch_size=2,
            steps_per_generation=4,
            num_iterations=1,
            max_steps=8,
            max_completion_length=12,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = PPOTrainer(
            RhapsodeForCausalLM(config),
            reward or RhapsodeForSequenceClassification(config),
            args,
            train_dataset=Dataset.from_dict({"prompt": ["a few words"] * 16}),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None,
        )
        trainer.train()
    models = [trainer.model, *trainer.rewards.models, *filter(None, [trainer.reference])]  # the value model is inside
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"parameters": sum(m.num_parameters() for m in models), "trained": trained, "bytes": (peak - before) * 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SETUPS, help="in this process, printed as JSON")
    only = parser.parse_args().only
    if only:
        print(json.dumps(run(**SETUPS[only])))
        return
    print("| set-up | parameters | of them trained | peak memory |\n|---|---|---|---|")
    for name in SETUPS:
        done = subprocess.run([sys.executable, __file__, "--only", name], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        sizes = [f"{found[key] / 1e6:.1f}M" for key in ("parameters", "trained")]
        print(f"| {name} | {' | '.join(sizes)} | {found['bytes'] / 2**20:,.0f} MiB |", flush=True)


if __name__ == "__main__":
    main()
