"""Rhapsode: one decoder-only language model for every open design, and the recipes around it.

    >>> import rhapsode                                            # `model_type: rhapsode` is known from here on
    >>> from transformers import AutoModelForCausalLM
    >>> model = AutoModelForCausalLM.from_pretrained("runs/demo")

Importing this package costs milliseconds: torch and transformers are loaded when a public name, or one of
transformers' Auto classes, is first used. `rhapsode --help` therefore answers at once.
"""

import importlib
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

__version__ = "0.1.0"

_HOMES = {
    "RhapsodeConfig": ".modeling",
    "RhapsodeModel": ".modeling",
    "RhapsodeForCausalLM": ".modeling",
    "RhapsodeForSequenceClassification": ".modeling",
    "RhapsodeForTokenClassification": ".modeling",
    "RhapsodeForQuestionAnswering": ".modeling",
    "presets": ".modeling",
    "export": ".hub",
    "load_foreign": ".hub",
    "save_foreign": ".hub",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'rhapsode' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__():
    return sorted([*globals(), *__all__])


_MODELING_AUTO = "transformers.models.auto.modeling_auto"
_TRIGGERS = ("transformers.models.auto.configuration_auto", _MODELING_AUTO, f"{__name__}.modeling.modeling_rhapsode")


def _register() -> None:
    """Make the Auto classes know us, once both sides are there; each of the triggers calls this when it is loaded."""
    auto = importlib.import_module(_MODELING_AUTO)
    if not hasattr(auto, "__all__"):  # half loaded, and a trigger itself
        return
    ours = importlib.import_module(".modeling.modeling_rhapsode", __name__)
    if not hasattr(ours, "__all__"):
        return
    configuration_auto = importlib.import_module(_TRIGGERS[0])
    configuration_auto.AutoConfig.register(ours.RhapsodeConfig.model_type, ours.RhapsodeConfig, exist_ok=True)
    for auto_class, path in ours.AUTO_MAP.items():
        if auto_class != "AutoConfig":
            model = getattr(ours, path.split(".")[-1])
            getattr(auto, auto_class).register(ours.RhapsodeConfig, model, exist_ok=True)


class _RegisterOnImport(MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname not in _TRIGGERS or (spec := PathFinder.find_spec(fullname, path, target)) is None:
            return None
        load = spec.loader.exec_module

        def load_and_register(module):
            load(module)
            _register()

        spec.loader.exec_module = load_and_register
        return spec


sys.meta_path.insert(0, _RegisterOnImport())
if not sys.modules.keys().isdisjoint(_TRIGGERS):
    _register()
