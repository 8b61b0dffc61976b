"""A model of a hundred thousand parameters and a few chats, for the tests of the alignment commands."""

import json
from pathlib import Path

import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM, RhapsodeForSequenceClassification
from rhapsode.tokenization import token_ids
from transformers import AutoTokenizer

WORDS = (
    "glob",
    "heap",
    "shlex",
    "calendar",
    "string",
    "bisect",
    "textwrap",
    "fnmatch",
    "file",
    "module",
    "path",
    "line",
)
QUESTIONS = [f"What does {word} do?" for word in WORDS]
ANSWERS = [f"It makes a {word} for {len(word)}." for word in WORDS]


def save_model(directory: Path, tokenizer_directory: Path) -> str:
    """A new model with its tokenizer, the same each time."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 128}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = RhapsodeConfig(vocab_size=len(tokenizer), **sizes, **heads, **token_ids(tokenizer))
    RhapsodeForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def save_scorer(directory: Path, tokenizer_directory: Path) -> str:
    """A reward model with its tokenizer: random scores of whole conversations, the same each time."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = RhapsodeConfig(
        vocab_size=len(tokenizer), num_labels=1, max_position_embeddings=128, **sizes, **token_ids(tokenizer)
    )
    RhapsodeForSequenceClassification(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def chats(count: int = 10) -> list[dict]:
    return [{"messages": [user(q), assistant(a)]} for q, a in zip(QUESTIONS[:count], ANSWERS[:count], strict=True)]


def prompts() -> list[dict]:
    return [{"prompt": [user(q)], "reference": a} for q, a in zip(QUESTIONS, ANSWERS, strict=True)]


def completions() -> list[dict]:
    return [{"prompt": [user(q)], "completion": [assistant(a)]} for q, a in zip(QUESTIONS, ANSWERS, strict=True)]


def pairs() -> list[dict]:
    """The right answer against another one, and against a longer one."""
    rows = []
    for i, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS, strict=True)):
        other = "Nobody knows what it is or why." if i % 2 else "No."
        rows.append({"prompt": [user(question)], "chosen": [assistant(answer)], "rejected": [assistant(other)]})
    return rows


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_splits(directory: Path, rows: list[dict]) -> str:
    """A dataset whose held-out rows are those that it trains on."""
    directory.mkdir(exist_ok=True)
    for split in ("train", "validation", "test"):
        write_rows(directory / f"{split}.jsonl", rows)
    return str(directory)
