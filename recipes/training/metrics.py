"""What a run writes down while it goes: metrics.jsonl, the progress bar, and how much arithmetic a step is."""

import json
from pathlib import Path

from torch import nn
from tqdm import tqdm


def flops_per_token(model, length: int) -> float:
    """Floating-point operations of training on one token: forward and backward.

    6 for each parameter of a matrix product, and 6 L H C T for causal attention (Chowdhery et al. 2022, appendix B,
    counts 12 without the mask). Embedding look-ups and norms are left out.
    """
    config = model.config
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices = {id(p): p.numel() for p in model.parameters() if p.dim() == 2 and id(p) not in tables}
    head = model.get_output_embeddings().weight
    matrices[id(head)] = head.numel()  # also where it is the embedding
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = config.num_hidden_layers * config.num_attention_heads * width * length
    return 6 * (sum(matrices.values()) + attention)


class MetricsLog:
    """Appends one JSON object a line; on resume, forgets the lines after the step that is resumed from."""

    def __init__(self, path: Path, resume_step: int = 0):
        kept = [row for row in read_metrics(path) if row["step"] <= resume_step] if resume_step else []
        temporary = path.with_name(f".unfinished-{path.name}")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        temporary.replace(path)
        self.path = path

    def write(self, **row) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")


def read_metrics(path: Path) -> list[dict]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [json.loads(line) for line in lines[:-1]]  # after the last end of line: nothing, or what a kill cut off


def progress_bar(total: int, initial: int, enabled: bool) -> tqdm:
    return tqdm(total=total, initial=initial, desc="training", unit="step", disable=not enabled, dynamic_ncols=True)
