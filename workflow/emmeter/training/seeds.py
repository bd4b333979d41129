"""Seeds derived by name, so that each random stream is independent of the use of all others."""

import hashlib


def derive(*parts: int | str) -> int:
    """Derive a seed in [0, 2^63) from all parts; it is the same on every machine and Python version."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
