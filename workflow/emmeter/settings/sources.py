"""Sources of images as settings name them: ``cifar10``, ``npz:PATH``, ``folder:PATH``; one spelling per place."""

import difflib
import os
import re
from pathlib import Path

from emmeter.errors import DataError

EMBEDDINGS = "embeddings:"  # of `data.labels`, before a path
DATASETS = ("digits", "glyphs", "cifar10", "cifar100", "svhn", "fashion_mnist", "mnist")


def checked(source: str) -> str:
    """Return `source` unchanged.

    Raises:
        ValueError: it is neither the name of a data set nor ``npz:PATH`` nor ``folder:PATH``.
    """
    if source in DATASETS or re.fullmatch(r"(npz|folder):[^\0\n]+", source):
        return source
    near = difflib.get_close_matches(source, DATASETS, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"must be one of {', '.join(DATASETS)}, npz:PATH or folder:PATH{hint}")


def expanded(text: str) -> Path:
    """A path with the home folder in place of a leading `~` or `~user`.

    Raises:
        DataError: the home folder is not known on this machine.
    """
    path = os.path.expanduser(text)
    if text.startswith("~") and path == text:
        home = text.split("/")[0]
        raise DataError(f"{text}: the home folder {home} is not known on this machine; write the path in full")
    return Path(path)


def own_path(source: str) -> Path:
    """The file or folder of a source ``npz:PATH`` or ``folder:PATH``, or of labels ``embeddings:PATH``.

    Raises:
        DataError: the path begins with the home folder of a user that this machine does not know.
    """
    return expanded(source.partition(":")[2])


def is_own(source: str) -> bool:
    """True for the user's own file or folder, False for a data set that is known by its name."""
    return source.partition(":")[0] in ("npz", "folder")


def respelled(source: str) -> str:
    """A source in its simplest spelling: ``folder:PHOTOS`` for ``folder:./PHOTOS//`` or ``folder:a/../PHOTOS``.

    So are labels ``embeddings:PATH``; other texts stay as they are.

    A path in the working folder, which is the project's, is written relative to it, so that a project keeps its keys
    when it moves.  Other absolute paths stay absolute, and other relative paths stay relative.  ``a/..`` stays if
    ``a`` is a link or does not exist.  Links themselves stay too, because their targets may change.
    """
    kind, _, text = source.partition(":")
    if kind not in ("npz", "folder", EMBEDDINGS.removesuffix(":")):
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
    if plain.startswith("~") and not text.startswith("~"):  # a folder whose name begins with ~, not a home folder
        plain = f"./{plain}"
    return f"{kind}:{plain}"


def _is_here(path: str) -> bool:
    try:
        return os.path.samefile(path, ".")
    except OSError:
        return False
