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


_CONFIGURATION_AUTO = "transformers.models.auto.configuration_auto"
_BASELINES = {
    "NGramForCausalLM": "ngram",
    "FeedForwardForCausalLM": "feedforward",
    "RNNForCausalLM": "recurrent",
    "LSTMForCausalLM": "recurrent",
}
_WATCHED = ("transformers.", f"{__name__}.modeling", f"{__name__}.recipes.baselines")


def _is_idle(but: str = "") -> bool:
    """Whether no module of transformers and no part of the model is half loaded, `but` this one, whose code has run."""
    watched = [m for n, m in list(sys.modules.items()) if n != but and n.startswith(_WATCHED)]
    return not any(getattr(getattr(m, "__spec__", None), "_initializing", False) for m in watched)


def _register() -> None:
    """Make the Auto classes know us."""
    sys.meta_path.remove(_FINDER)
    ours = importlib.import_module(".modeling.modeling_rhapsode", __name__)
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    configuration_auto = importlib.import_module(_CONFIGURATION_AUTO)
    configuration_auto.AutoConfig.register(ours.RhapsodeConfig.model_type, ours.RhapsodeConfig, exist_ok=True)
    for auto_class, path in ours.AUTO_MAP.items():
        if auto_class != "AutoConfig":
            model = getattr(ours, path.split(".")[-1])
            getattr(auto, auto_class).register(ours.RhapsodeConfig, model, exist_ok=True)
    for name, module in _BASELINES.items():
        baseline = getattr(importlib.import_module(f".recipes.baselines.{module}", __name__), name)
        configuration_auto.AutoConfig.register(baseline.config_class.model_type, baseline.config_class, exist_ok=True)
        auto.AutoModelForCausalLM.register(baseline.config_class, baseline, exist_ok=True)


class _RegisterOnImport(MetaPathFinder):
    """Registers when an Auto class is there and nothing is half loaded: our model imports much of transformers."""

    def find_spec(self, fullname, path, target=None):
        if not fullname.startswith(_WATCHED):
            return None
        if (spec := PathFinder.find_spec(fullname, path, target)) is None or not hasattr(spec.loader, "exec_module"):
            return spec
        load = spec.loader.exec_module

        def load_and_register(module):
            load(module)
            if self in sys.meta_path and _CONFIGURATION_AUTO in sys.modules and _is_idle(but=fullname):
                _register()

        spec.loader.exec_module = load_and_register
        return spec


_FINDER = _RegisterOnImport()
sys.meta_path.insert(0, _FINDER)
if _CONFIGURATION_AUTO in sys.modules and _is_idle():
    _register()
