"""A small PPO run, in this process or in several that are forked from a server which has imported everything."""

import contextlib
import multiprocessing
import os
import socket
from pathlib import Path

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["rhapsode.trainers", "rhapsode.modeling"])
PROMPTS = 16
FIXED = {
    "use_cpu": True,
    "max_steps": 8,
    "per_device_train_batch_size": 4,
    "steps_per_generation": 2,
    "num_iterations": 2,
    "max_completion_length": 6,
    "learning_rate": 3e-3,
    "logging_steps": 1,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
}


def small_model(tokenizer, seed: int = 0, kind: str = "llama"):
    """Random weights, so spread out that its completions differ, and some of them end."""
    from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128}
    config |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config |= {"bos_token_id": tokenizer.bos_token_id, "initializer_range": 0.3}
    build = {"llama": (LlamaForCausalLM, LlamaConfig), "rhapsode": (RhapsodeForCausalLM, RhapsodeConfig)}[kind]
    return build[0](build[1](**config))


def prompts(conversational: bool = True):
    from datasets import Dataset

    texts = [f"say {'a' * (i % 5)} {i}" for i in range(PROMPTS)]
    rows = [[{"role": "user", "content": text}] for text in texts] if conversational else texts
    return Dataset.from_dict({"prompt": rows, "number": list(range(PROMPTS))})


def vowels(prompts, completions, **kwargs) -> list[float]:
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [sum(letter in "aeiou" for letter in text) / 4 for text in texts]


def trainer(directory, tokenizer, model=None, reward_funcs=vowels, dataset=None, settings=(), **arguments):
    from rhapsode.trainers import PPOConfig, PPOTrainer

    return PPOTrainer(
        small_model(tokenizer) if model is None else model,
        reward_funcs,
        PPOConfig(str(directory), **FIXED | dict(settings)),
        train_dataset=prompts() if dataset is None else dataset,
        processing_class=tokenizer,
        **arguments,
    )


def weights(run) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in run.model.named_parameters()}


def changed(one: dict, other: dict) -> list[str]:
    return [name for name in one if not torch.equal(one[name], other[name])]


def first_rollout(run) -> dict:
    run.model.train()
    rows = [run.train_dataset[i] for i in range(run.args.generation_batch_size)]
    run.buffer.fill(run._make_rollout(rows))
    return run.buffer.rollout


def work(directory: str, tokenizer_directory: str, settings: dict, environment: dict[str, str]) -> None:
    """What a process does; module level, as a new process has to find it."""
    os.environ.update(environment)
    Path(directory).mkdir(exist_ok=True)
    log = Path(directory) / f"log-{environment.get('RANK', 0)}.txt"
    with log.open("w") as stream, contextlib.redirect_stderr(stream), contextlib.redirect_stdout(stream):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
        settings = dict(settings)
        resume = settings.pop("resume", None)
        run = trainer(directory, tokenizer, settings=settings)
        run.train(resume_from_checkpoint=resume)
        run.save_model()
        run.state.save_to_json(f"{directory}/state-{run.args.process_index}.json")


def run_processes(count: int, directory: Path, tokenizer_directory: Path, settings: dict) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
    if count > 1:
        common |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = []
    for rank in range(count):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
        arguments = (str(directory), str(tokenizer_directory), settings, common | own)
        processes.append(CONTEXT.Process(target=work, args=arguments))
        processes[-1].start()
    for process in processes:
        process.join(timeout=240)
        if process.exitcode is None:
            process.kill()
    said = "".join(path.read_text()[-3000:] for path in sorted(Path(directory).glob("log-*.txt")))
    assert [process.exitcode for process in processes] == [0] * count, said
