"""How sources of images are written: ``cifar10``, ``npz:PATH``, ``folder:PATH``, with one spelling per place."""

import os
from pathlib import Path

from emmeter.errors import DataError


def expanded(text: str) -> Path:
    """A path with the home folder for a leading `~` or `~user`.  Raises DataError where that is not known."""
    found = os.path.expanduser(text)
    if text.startswith("~") and found == text:
        home = text.split("/")[0]
        raise DataError(f"{text}: the home folder {home} is not known on this machine; write the path in full")
    return Path(found)


def own_path(source: str) -> Path:
    """The file or folder of a source npz:PATH or folder:PATH.  Raises DataError where a `~` stands for no folder."""
    return expanded(source.partition(":")[2])


def is_own(source: str) -> bool:
    """Whether a source is the user's own file or folder, not a data set known by its name."""
    return source.partition(":")[0] in ("npz", "folder")


def respelled(source: str) -> str:
    """A source as it is written most simply: ``folder:PHOTOS`` for ``folder:./PHOTOS//`` or ``folder:a/../PHOTOS``.

    What lies in the working folder, which is the project's, is written from there, so that a project that moves keeps
    its keys; other absolute paths stay absolute, and other relative ones relative.  ``a/..`` is left as it is where
    ``a`` is a link or does not exist, and so are links themselves: they may lead elsewhere tomorrow.
    """
    kind, _, text = source.partition(":")
    if kind not in ("npz", "folder"):
        return source
    root = "/" if text.startswith("/") else ""
    parts: list[str] = []
    for part in text.split("/"):
        if part == ".." and parts and parts[-1] != ".." and not parts[-1].startswith("~"):
            above = os.path.expanduser(root + "/".join(parts))
            if os.path.isdir(above) and not os.path.islink(above):
                parts.pop()
                continue
        if part not in ("", ".") and not (part == ".." and root and not parts):
            parts.append(part)
    if root or parts[:1] == [".."]:
        for count in range(len(parts), 0, -1):
            if _is_here(root + "/".join(parts[:count])):
                root, parts = "", parts[count:]
                break
    plain = root + "/".join(parts) or "."
    if plain.startswith("~") and not text.startswith("~"):  # a folder of that name, not a home
        plain = f"./{plain}"
    return f"{kind}:{plain}"


def _is_here(path: str) -> bool:
    try:
        return os.path.samefile(path, ".")
    except OSError:
        return False
