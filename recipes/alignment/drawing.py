"""Choices that depend on nothing but their names: the same on every machine, and not changed by what else there is."""

import hashlib


def draw(*keys: object) -> float:
    """A number in [0, 1) for these keys."""
    text = "\0".join(map(str, keys)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64


def side_of(key: str, shares: dict[str, float]) -> str:
    """The split that a key belongs to, each of them drawn by its share."""
    position, last = draw("side", key), ""
    for last, share in shares.items():
        position -= share
        if position < 0:
            return last
    return last  # the shares add up to 1 but for rounding
