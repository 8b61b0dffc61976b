"""The keys and values of earlier positions: one argument, which transformers calls `cache` from 5.24 on.

Before it was `past_key_values`. The models take both names in every version, so that a saved directory opens in either,
and hand the cache on under the name that the installed transformers looks for.
"""

from transformers.modeling_outputs import BaseModelOutputWithPast

CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


def one_cache(past_key_values, cache):
    """Whichever of the two is given; `ValueError` if both are."""
    if past_key_values is not None and cache is not None:
        raise ValueError("past_key_values and cache are two names of one argument; give one of them")
    return cache if past_key_values is None else past_key_values
