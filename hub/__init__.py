"""Getting weights in and out: checkpoints of other families, self-contained exports, model cards."""

from .export import export
from .foreign import load_foreign, save_foreign

__all__ = ["export", "load_foreign", "save_foreign"]
