"""Legal strings: JSON can smuggle half of a surrogate pair into a Python string, and UTF-8 has no bytes for it."""


def mend(value):
    """`value` with every string in it legal: surrogate pairs joined, a half on its own replaced by U+FFFD."""
    if isinstance(value, str):
        try:
            value.encode()
            return value
        except UnicodeEncodeError:
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {mend(key): mend(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mend(item) for item in value]
    return value
