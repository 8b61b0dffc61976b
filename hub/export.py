"""A self-contained Hub repository: weights, configuration, the code of the model, tokenizer and model card.

It opens by `AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)`, or the Auto class of another
head, where Rhapsode is not installed. `model.save_pretrained` and `model.push_to_hub` write the same weights, code,
generation config, and configuration with the whole `auto_map`. What only an export has is the tokenizer beside them,
the card with the run's figures and the hash of the code, and the checks: nothing that looks like a token, no name that
leads elsewhere.
"""

import copy
import re
import shutil
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..tokenization.vocabulary import check_vocabulary
from .card import auto_class_of, model_card
from .code import code_hash
from .opening import load_whole, opening
from .run import Run, read_run
from .secrets import refuse_secrets
from .source import local_folder
from .untrusted import check_folder, check_weights

CARD_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")  # it stands in code that the card shows


def export(
    model_or_dir: PreTrainedModel | str | Path,
    directory: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    dtype: str = "auto",
    max_shard_size: int | str = "5GB",
    revision: str | None = None,
    name: str | None = None,
    license: str | None = None,
) -> Path:
    """Write the repository and return its path; it is complete or, after an error, not there.

    Args:
        model_or_dir: a model, or a directory or Hub id of one; a run directory also gives the card its figures.
        directory: a directory that does not exist yet, or is empty.
        tokenizer: goes with it; with a directory or id, that one's own where `None`.
        dtype: `auto` keeps the number format, else `float32`, `bfloat16` or `float16`.
        max_shard_size: of one weight file, in bytes or as "5GB".
        revision: branch, tag or commit of a Hub id.
        name: what the card calls it, such as `owner/name`; the directory's name where `None`.
        license: the Hub's name of the license of the weights, such as `apache-2.0`.

    Raises:
        ValueError: the directory holds something; there is no model in `model_or_dir`, or only a pickled one or an
            adapter; a name in it leads out of it; something like a token would be published.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} is not empty; export into a new directory")
    if name is not None and not CARD_NAME.fullmatch(name):
        raise ValueError(f"name {name!r} of the card: use letters, digits, - _ . and one /, as in owner/name")
    name = name or re.sub(r"[^\w.-]", "-", directory.name)
    folder, run = None, Run()
    if isinstance(model_or_dir, str | Path):
        folder = local_folder(model_or_dir, revision)
        run = read_run(folder)
        model, tokenizer = _open(model_or_dir, folder, tokenizer, dtype)
    else:
        model = _in_memory(model_or_dir, dtype, revision)
    temporary = directory.with_name(f".unfinished-{directory.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary, max_shard_size=max_shard_size)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        if run.has_curves:
            shutil.copyfile(folder / "curves.png", temporary / "curves.png")
        chats = tokenizer is not None and bool(tokenizer.chat_template)
        card = model_card(model, name, run, license, code_hash(temporary), chats)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        refuse_secrets(temporary)
        check_folder(temporary)
        if directory.exists():
            directory.rmdir()
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return directory


def _in_memory(model, dtype: str, revision: str | None) -> PreTrainedModel:
    """The model in the number format that is wanted; whose it is keeps it as it was."""
    if not isinstance(model, PreTrainedModel):
        kind = type(model).__name__
        raise ValueError(f"{kind} cannot be exported; give a model or directory (of adapters: merge_and_unload first)")
    if revision is not None:
        raise ValueError(f"revision {revision!r} is for a Hub repository, and this is a model; leave it out")
    return model if dtype == "auto" else copy.deepcopy(model).to(getattr(torch, dtype))


def _open(source: str | Path, folder: Path, tokenizer, dtype: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model by the class that its configuration names, and its tokenizer; no code of the folder runs."""
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{source} holds an adapter; merge it into its model first (merge_and_unload), and export that"
        )
    with opening(f"{source}, a model with its tokenizer"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if getattr(config, "quantization_config", None) is not None:
            raise ValueError("it is quantized already, and its directory is complete; export what it was made from")
        check_weights(folder)
        auto = getattr(transformers, auto_class_of((config.architectures or [""])[0]))
        settings = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
        model = load_whole(auto, folder, **settings)
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        check_vocabulary(tokenizer, model.config)
    return model, tokenizer
