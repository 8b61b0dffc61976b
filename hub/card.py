"""The model card: what the model is, how it was trained, what was measured, how to load it, and what code it brings.

(Mitchell et al. 2019, "Model Cards for Model Reporting", arXiv:1810.03993.) The metadata is the Hub's, written by
huggingface_hub: `model-index` holds the figures, `co2_eq_emissions` the carbon dioxide in grams.
"""

import re

import huggingface_hub
import torch
import transformers
import yaml
from huggingface_hub import EvalResult, ModelCardData

from .code import KEY
from .measured import emissions, energy_table, evaluation_tables, headline_figures, table
from .run import Run

SHOWN = (
    *("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    *("vocab_size", "max_position_embeddings", "norm_type", "norm_order", "position_embedding_type", "hidden_act"),
    "tie_word_embeddings",
)
TASKS = {  # the end of a class's name: the Hub's task, and what such a model is
    "ForCausalLM": ("text-generation", "A decoder language model"),
    "ForSequenceClassification": ("text-classification", "A classifier of texts"),
    "ForTokenClassification": ("token-classification", "A classifier of tokens"),
    "ForQuestionAnswering": ("question-answering", "A model that marks an answer in a text"),
}
BACKBONE = ("feature-extraction", "The backbone of a decoder language model")
MADE = {
    "pretrain": "It was trained from raw text.",
    "sft": "It was taught to answer by supervised fine-tuning.",
    "reward": "It was trained on pairs of answers to score them.",
    "dpo": "It was trained on pairs of answers by direct preference optimisation.",
    "kto": "It was trained on answers marked good or bad.",
    "ppo": "It was trained on rewards by proximal policy optimisation.",
    "grpo": "It was trained on rewards by comparing sampled answers.",
    "rloo": "It was trained on rewards by comparing each sampled answer with the others.",
    "distill": "It was trained to write as a larger model does.",
    "classify": "It was trained on labelled texts.",
    "abstain": "It was taught to say where it does not know.",
}


def task_of(model) -> tuple[str, str]:
    """(the Hub's name of the task, what such a model is), by the model's class."""
    name = type(model).__name__
    kind = next((kind for end, kind in TASKS.items() if name.endswith(end)), BACKBONE)
    is_reward = name.endswith("ForSequenceClassification") and model.config.num_labels == 1
    return (kind[0], "A reward model, which scores texts") if is_reward else kind


def auto_class_of(architecture: str) -> str:
    """The Auto class that opens a class of this name: AutoModelForCausalLM for XForCausalLM, AutoModel for XModel."""
    end = next((end for end in TASKS if architecture.endswith(end)), "")
    return f"AutoModel{end}"


def model_card(
    model, name: str, run: Run | None = None, license: str | None = None, sha256: str | None = None, chats: bool = False
) -> str:
    """The README.md of a repository called `name`; figures and settings come from the run, where there is one.

    `sha256` is the hash of the code that lies beside it, `chats` says that its tokenizer has a chat template.
    """
    run = run or Run()
    task, kind = task_of(model)
    made = [MADE[run.command]] if run.command in MADE else []
    made += [f"It started from `{run.base_model}`."] if run.base_model else []
    about = f"{kind} of {sum(p.numel() for p in model.parameters()):,} parameters, made with Rhapsode."
    shown = [key for key in SHOWN if hasattr(model.config, key)] + (["num_labels"] if "classification" in task else [])
    parts = [
        f"---\n{metadata(model, name, run, license, sha256)}\n---\n\n# {name}",
        " ".join([about, *made]),
        f"## How to load it\n\n{_loading(model, name, chats, has_code=sha256 is not None)}",
        f"## Design\n\n{table(['', ''], [(key, getattr(model.config, key)) for key in shown])}",
        _data(run),
        _recipe(run),
        "## Curves\n\n![curves](curves.png)" if run.has_curves else "",
        f"## Evaluation\n\nOn {run.held_out}.\n\n{tables}" if (tables := evaluation_tables(run.results)) else "",
        f"## Energy\n\n{energy}" if (energy := energy_table(run.results)) else "",
        f"## Intended use and limits\n\n{_limits(task, run)}",
        _code(sha256),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def metadata(model, name: str, run: Run, license: str | None, sha256: str | None) -> str:
    """The YAML that heads the card."""
    task, _ = task_of(model)
    carbon = emissions(run.results, run.command, run.facts.get("device"))
    data = run.sources[0] if len(run.sources) == 1 else "several sources"
    about = {"task_type": task, "dataset_type": data, "dataset_name": run.held_out}
    results = [
        EvalResult(**about, metric_type=kind, metric_name=label, metric_value=value)
        for kind, label, value in headline_figures(run.results)
    ]
    card = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag=task,
        tags=["rhapsode", *(["custom_code"] if sha256 else []), *([run.command] if run.command else [])],
        datasets=run.hub_datasets or None,
        base_model=run.hub_base_model,
        model_name=name.rpartition("/")[2] if results else None,
        eval_results=results or None,
        **({"co2_eq_emissions": carbon} if carbon else {}),
        **({KEY: sha256} if sha256 else {}),
    )
    return card.to_yaml().strip()


def _loading(model, name: str, chats: bool, has_code: bool) -> str:
    auto = auto_class_of(type(model).__name__)
    trust = ", trust_remote_code=True" if has_code else ""
    lines = [
        f"from transformers import {auto}, AutoTokenizer\n",
        f'model = {auto}.from_pretrained("{name}"{trust})',
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
    ]
    if chats and auto == "AutoModelForCausalLM":
        lines += [
            'messages = [{"role": "user", "content": "..."}]',
            'ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")',
            "print(tokenizer.decode(model.generate(**ids, max_new_tokens=100)[0], skip_special_tokens=True))",
        ]
    where = "Where Rhapsode is installed and imported, `trust_remote_code` is not needed." if has_code else ""
    return f"```python\n{chr(10).join(lines)}\n```\n\n{where}".rstrip()


def _data(run: Run) -> str:
    if not run.sources:
        return ""
    rows = [("sources", ", ".join(f"`{source}`" for source in run.sources)), ("measured on", run.held_out)]
    counts = {**(run.facts.get("rows") or {}), **(run.facts.get("data") or {})}
    rows += [(key.replace("_", " "), f"{value:,}") for key, value in counts.items() if isinstance(value, int)]
    return f"## Data\n\n{table(['', ''], rows)}"


def fenced(text: str, language: str) -> str:
    """A block of code that nothing in the text ends."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _recipe(run: Run) -> str:
    """The command, what the run was, and every option, so that it can be repeated."""
    if not run.command:
        return ""
    known = [key for key in ("precision", "processes", "device", "versions") if key in run.facts]
    rows = [(key, run.facts[key]) for key in known]
    for key, name in (("step", "steps"), ("tokens", "training tokens"), ("seconds", "seconds of training")):
        if isinstance(value := run.results.get(key), int | float):
            rows.append((name, f"{value:,.0f}"))
    options = yaml.safe_dump(run.public_options(), sort_keys=False)
    text = f"`rhapsode {run.command} --config FILE.yaml`, with these options in the file:\n\n{fenced(options, 'yaml')}"
    return f"## Recipe\n\n{table(['', ''], rows)}\n\n### Hyperparameters\n\n{text}"


def _limits(task: str, run: Run) -> str:
    if task != "text-generation":
        return (
            "For research and study. Its outputs are worth what the evaluation says, on text like its training data; "
            "elsewhere they may be arbitrary, and they carry the biases of that data."
        )
    tuned = run.command not in ("", "pretrain")
    limits = (
        "Answers may be wrong and sound sure: preferences and rewards were learned from the data above alone."
        if tuned
        else "It has not been aligned or filtered."
    )
    return (
        "For research and study. The model writes what is likely under its training text: it states falsehoods "
        f"fluently and repeats the biases of that text. {limits}"
    )


def _code(sha256: str | None) -> str:
    from .. import __version__

    versions = f"Rhapsode {__version__}, torch {torch.__version__}, transformers {transformers.__version__}, "
    versions += f"huggingface_hub {huggingface_hub.__version__}"
    text = f"## Code and versions\n\nWritten with {versions}."
    if sha256 is None:
        return text
    return (
        f"{text} The Python files here have the hash\n\n```text\n{sha256}\n```\n\nwhich "
        "`LC_ALL=C sha256sum *.py | sha256sum` prints; `rhapsode verify DIRECTORY_OR_ID` compares them with an "
        "installed Rhapsode without running them."
    )
