"""What the model is. One idea a file, flat: `save_pretrained` copies these files beside the weights.

configuration_rhapsode   the switches             norms         LayerNorm, RMSNorm and their relatives
validation               which combinations exist positions     rotary, learned and sinusoidal positions
presets                  the named designs        attention     queries, keys, values
modeling_rhapsode        the models               feedforward   the layer between attentions
caches                   the cache's two names     block         how they are wired
"""

from . import modeling_rhapsode
from .modeling_rhapsode import *  # noqa: F403
from .presets import presets

__all__ = ["presets", *modeling_rhapsode.__all__]
