"""Seeds derived by name, so that every random stream is independent of how far the others were used."""

import hashlib


def derive(*parts: int | str) -> int:
    """A seed in [0, 2^63) that depends on every part, the same on every machine and Python."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
