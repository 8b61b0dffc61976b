"""A folder that others have filled, before anything in it is opened: no name in it may lead out of it.

transformers joins these names to directories, of the source, of its cache of modules, of what it saves: `auto_map` and
relative imports name code, the index names weight files, chat templates name the files that they are saved as.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_imports

CLASS = re.compile(r"([\w.-]+/[\w.-]+--)?[A-Za-z_]\w*\.[A-Za-z_]\w*")  # modeling.Class, or owner/name--modeling.Class
MODULE = re.compile(r"\w+(\.\w+)*")
PLAIN = re.compile(r"[\w-][\w.-]*")  # one file, in this folder
PICKLES = ("pytorch_model*.bin", "adapter_model.bin", "*.pth", "*.ckpt")


def check_folder(folder: Path) -> None:
    """
    Raises:
        ValueError: a name that leads elsewhere, or JSON that cannot be read; it says where it stands.
    """
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith(("config.json", ".index.json")):
            for what, name, allowed in _names(path, _json(path)):
                if not isinstance(name, str) or not allowed.fullmatch(name):
                    raise ValueError(f"{path}: {what} {name!r} is refused: it may lead out of the folder")
    for path in sorted(folder.glob("*.py")):
        for name in get_relative_imports(path):
            if not MODULE.fullmatch(name):
                raise ValueError(f"{path}: the import of {name!r} is refused: it leads out of the folder")


def check_weights(folder: Path) -> None:
    """
    Raises:
        ValueError: there are no weights in safetensors.
    """
    refuse_pickles(folder)
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} holds no model: there is no .safetensors file in it")


def refuse_pickles(folder: Path) -> None:
    """
    Raises:
        ValueError: all the weights there are is a pickle, and reading one can run anything.
    """
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{folder} holds its weights in {pickles[0]}, a pickle, which can run code when it is read; convert it "
            "where you trust it: open it with transformers, and save_pretrained writes safetensors"
        )


def _names(path: Path, content: dict) -> Iterator[tuple[str, object, re.Pattern]]:
    """(what it is, the name, what is allowed) of each name that becomes part of a path."""
    for value in class_references(content):
        yield "auto_map", value, CLASS
    if path.name.endswith(".index.json"):
        for value in _values(content.get("weight_map")):
            yield "weight_map", value, PLAIN
    if (explicit := content.get("transformers_weights")) is not None:
        yield "transformers_weights", explicit, PLAIN
    templates = content.get("chat_template")
    for template in templates if isinstance(templates, list) else []:
        yield "chat_template", template.get("name") if isinstance(template, dict) else template, PLAIN


def class_references(config: dict) -> set[str]:
    """What `auto_map` says: which class of which module, maybe of which repository."""
    return _values(config.get("auto_map"))


def _values(found) -> set:
    """The strings in a mapping, in lists of it too (a tokenizer has a slow and a fast class)."""
    values = found.values() if isinstance(found, dict) else [] if found is None else [found]
    flat = [v for value in values for v in (value if isinstance(value, list) else [value])]
    return {v if isinstance(v, str) else repr(v) for v in flat if v is not None}


def _json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds a {type(content).__name__}, and must be an object with fields")
    return content
