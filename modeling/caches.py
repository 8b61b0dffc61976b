"""The keys and values of earlier positions: one argument, which transformers calls `cache` from 5.24 on.

Before it was `past_key_values`, and `cache` was another thing: the pages of continuous batching, which its kernels look
for among the arguments that they are given. A saved directory opens in either version, so the models take the old name
in both, the new one where it is one, and hand the cache on under the name that the installed transformers looks for.
"""

from transformers.modeling_outputs import BaseModelOutputWithPast

CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


def take_cache(past_key_values, arguments: dict):
    """The cache, under the old name or, out of `arguments`, the installed version's; `ValueError` if both are there."""
    cache = arguments.pop(CACHE, None)
    if past_key_values is not None and cache is not None:
        raise ValueError("past_key_values and cache are two names of one argument; give one of them")
    return cache if past_key_values is None else past_key_values


def update(cache, key, value, layer_idx: int, arguments: dict):
    """Key and value (B, K, S, C) with those of earlier positions; pages change the kernel's `arguments` as well."""
    pages = {"kwargs": arguments} if CACHE == "cache" else {}
    return cache.update(key, value, layer_idx, **pages)
