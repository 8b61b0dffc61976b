"""What is in order, made once: a small model, a tokenizer, a reward model, texts, and rows of every kind."""

import json
import sysconfig
from pathlib import Path

import pytest

MODULES = ("textwrap.py", "shlex.py", "fnmatch.py", "string.py", "heapq.py", "bisect.py", "calendar.py", "glob.py")
WORDS = ("glob", "heap", "shlex", "calendar", "string", "bisect", "textwrap", "fnmatch", "file", "module")


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> dict[str, str]:
    """Paths by the names that the rows of `bad.py` have for them; `root` is above all of them."""
    root = tmp_path_factory.mktemp("place")
    texts = root / "texts"
    texts.mkdir()
    for name in MODULES:
        (texts / name).write_bytes(Path(sysconfig.get_paths()["stdlib"], name).read_bytes())
    asked = [[{"role": "user", "content": f"What does {word} do?"}] for word in WORDS]
    said = [[{"role": "assistant", "content": f"It makes a {word}."}] for word in WORDS]
    tables = {
        "chats": [{"messages": q + a} for q, a in zip(asked, said, strict=True)],
        "pairs": [
            {"prompt": q, "chosen": a, "rejected": [{"role": "assistant", "content": "No."}]}
            for q, a in zip(asked, said, strict=True)
        ],
        "prompts": [{"prompt": q, "reference": a[0]["content"]} for q, a in zip(asked, said, strict=True)],
        "labels": [{"text": q[0]["content"], "label": ("a", "b")[i % 2]} for i, q in enumerate(asked)],
    }
    found = {"root": str(root), "d": str(texts)}
    for name, rows in tables.items():
        path = root / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found[name] = str(path)
    return found | _models(root, texts)


def _models(root: Path, texts: Path) -> dict[str, str]:
    import torch
    from rhapsode import RhapsodeConfig, RhapsodeForCausalLM, RhapsodeForSequenceClassification
    from rhapsode.tokenization import token_ids
    from rhapsode.tokenization.training import train_tokenizer

    tokenizer = train_tokenizer((p.read_text() for p in sorted(texts.iterdir())), vocab_size=400, show_progress=False)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 128, "vocab_size": len(tokenizer)}
    config = RhapsodeConfig(**sizes, **token_ids(tokenizer))
    RhapsodeForCausalLM(config).save_pretrained(root / "model")
    RhapsodeForSequenceClassification(RhapsodeConfig(**config.to_dict(), num_labels=1)).save_pretrained(root / "reward")
    for name in ("tokenizer", "model", "reward"):
        tokenizer.save_pretrained(root / name)
    return {"m": str(root / "model"), "r": str(root / "reward"), "t": str(root / "tokenizer")}
