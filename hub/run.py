"""What a run directory says about the run that made a model, as far as a model card may tell it.

A published card holds no path of the machine that wrote it.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

OPTIONS, RESULTS, FACTS = "config_resolved.yaml", "results.json", "run.json"
OF_THE_MACHINE = {"output_dir", "overwrite_output_dir", "resume", "data_cache", "report_to", "num_proc"}
# What looks like owner/name and is a path, maybe of another working directory.
LOCAL = ("runs/", "exports/", "data/")
TABLES = (".txt", ".md", ".py", ".jsonl", ".json", ".parquet", ".csv", ".gz", ".bz2", ".xz", ".zst")


@dataclass
class Run:
    """Empty where the model is no run's."""

    command: str = ""  # sft, pretrain, ...
    options: dict = field(default_factory=dict)
    results: dict = field(default_factory=dict)
    facts: dict = field(default_factory=dict)
    has_curves: bool = False

    @property
    def sources(self) -> list[str]:
        """The data that it was trained on, without the machine's paths."""
        found = self.options.get("dataset") or []
        return [_public(source) for source in ([found] if isinstance(found, str) else found)]

    @property
    def hub_datasets(self) -> list[str]:
        found = self.options.get("dataset") or []
        names = [found] if isinstance(found, str) else found
        return [name.partition(":")[0] for name in names if _is_on_hub(name.partition(":")[0])]

    @property
    def held_out(self) -> str:
        """The name of what it was measured on."""
        other = self.options.get("eval_dataset")
        return _public(other) if isinstance(other, str) else f"held-out part of {', '.join(self.sources) or 'the data'}"

    @property
    def base_model(self) -> str | None:
        """The model that it was made from, by its Hub id or the name of its directory."""
        model = self.options.get("model")
        return _public(model) if isinstance(model, str) and self.command else None

    @property
    def hub_base_model(self) -> str | None:
        model = self.options.get("model")
        return model if isinstance(model, str) and _is_on_hub(model) else None

    def public_options(self) -> dict:
        shown = {key: value for key, value in self.options.items() if key not in OF_THE_MACHINE}
        return {key: _public(value) for key, value in shown.items()}


def read_run(folder: Path) -> Run:
    """
    Raises:
        ValueError: a file of the run cannot be read.
    """
    resolved = folder / OPTIONS
    first = resolved.read_text(encoding="utf-8").partition("\n")[0].split() if resolved.is_file() else []
    return Run(
        command=first[2] if first[:2] == ["#", "rhapsode"] and len(first) > 2 else "",
        options=_read(resolved, yaml.safe_load),
        results=_read(folder / RESULTS, json.loads),
        facts=_read(folder / FACTS, json.loads),
        has_curves=_is_picture(folder / "curves.png"),
    )


def _is_picture(path: Path) -> bool:
    """By what is in it: the name may be a link to any file of this machine, and what it holds is published."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(8) == b"\x89PNG\r\n\x1a\n"


def _read(path: Path, load) -> dict:
    if not path.is_file():
        return {}
    try:
        return dict(load(path.read_text(encoding="utf-8")) or {})
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is damaged; mend or delete it") from error


def _public(value):
    """A path outside of the working directory by its last part alone."""
    if isinstance(value, list):
        return [_public(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~", "..")):
        return Path(value).name
    return value


def _is_on_hub(name: str) -> bool:
    """Whether a name is one of the Hub's: owner/name, and nothing in the file system."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    is_local = Path(name).exists() or name.startswith(LOCAL) or name.lower().endswith(TABLES)
    return name.count("/") == 1 and not is_local
