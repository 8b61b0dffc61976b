"""The model card: what the model is, how it was trained, what was measured and how to load it."""

import json
from pathlib import Path

import yaml

LOAD = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("{name}", trust_remote_code=True)
```"""
SHOWN = (
    *("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    *("vocab_size", "max_position_embeddings", "norm_type", "norm_order", "position_embedding_type", "hidden_act"),
)


def model_card(model, name: str, run: Path | None = None) -> str:
    """The README.md of a repository; figures and settings come from the run directory where there is one."""
    results, options = _read(run, "results.json"), _read(run, "config_resolved.yaml")
    metadata = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["rhapsode"]}
    parameters = sum(p.numel() for p in model.parameters())
    design = "\n".join(f"| {key} | {getattr(model.config, key)} |" for key in SHOWN if hasattr(model.config, key))
    parts = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\n# {name}",
        f"A decoder language model of {parameters:,} parameters, made with Rhapsode.",
        "## How to load it\n\n" + LOAD.format(name=name),
        f"## Design\n\n| | |\n|---|---|\n{design}",
    ]
    if results:
        parts.append(_evaluation(results, options, has_curves=run is not None and (run / "curves.png").is_file()))
    if options:
        parts.append(f"## Training\n\n```yaml\n{yaml.safe_dump(options, sort_keys=False)}```")
    parts.append(
        "## Intended use and limits\n\nFor research and study. The model writes what is likely under its training "
        "text: it states falsehoods fluently and repeats the biases of that text. It has not been aligned or filtered."
    )
    return "\n\n".join(parts) + "\n"


def _evaluation(results: dict, options: dict | None, has_curves: bool) -> str:
    data = " ".join(options["dataset"]) if options else "the validation split"
    rows = {"this model": results["eval_bits_per_byte"], **results.get("baselines", {})}
    table = "\n".join(f"| {key} | {value:.3f} |" for key, value in rows.items())
    text = (
        f"## Evaluation\n\nHeld-out part of `{data}`, {results['eval_bytes']:,} bytes, after {results['tokens']:,} "
        f"training tokens:\n\n| | bits per byte |\n|---|---|\n{table}"
    )
    return text + ("\n\n![curves](curves.png)" if has_curves else "")


def _read(run: Path | None, name: str) -> dict | None:
    if run is None or not (run / name).is_file():
        return None
    text = (run / name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
