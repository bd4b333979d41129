"""A command of the user's with its settings filled in, and the digests of the files that it consists of."""

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping

from emmeter.errors import Fault, SettingsError
from emmeter.settings.model import PLACE, PLACES, places
from emmeter.settings.sections import Setup
from emmeter.settings.sources import expanded
from emmeter.settings.validation import lookup

IGNORED = frozenset({"__pycache__", ".git", ".venv", ".ipynb_checkpoints"})  # folders inside those of model.files
DIGITS = 16  # of a digest
REPLACED = ("network", "diffusion", "training", "sampling")  # sections of what a command takes the place of


def command(setup: Setup) -> str:
    """`model.command` with the settings that it asks for filled in; the placeholders of a run remain.

    Raises:
        SettingsError: there is no such setting.
    """
    assert setup.model.command is not None

    def value(match: re.Match[str]) -> str:
        if match[1] is None or match[1] in PLACES:
            return match[0]
        try:
            text = str(lookup(setup, match[1]))
        except SettingsError as error:
            raise SettingsError(Fault("model.command", None, f"has {{{match[1]}}}; {error.faults[0].text}")) from None
        return text.replace("{", "{{").replace("}", "}}")

    return shlex.join(PLACE.sub(value, word) for word in shlex.split(setup.model.command))


def words(setup: Setup, places: Mapping[str, object]) -> list[str]:
    """The words of the command for one run.

    Args:
        places: the value of each of `PLACES`.
    """

    def value(match: re.Match[str]) -> str:
        return match[0][0] if match[1] is None else str(places[match[1]])

    return [PLACE.sub(value, word) for word in shlex.split(command(setup))]


def ignored(setup: Setup, overrides: Iterable[str]) -> list[str]:
    """Those of an arm's overrides that have no effect, because only the pipeline's own networks would use them."""
    if setup.model.command is None:
        return []
    used = {"sampling.images", *places(setup.model.command)}
    return [name for name in overrides if name.partition(".")[0] in REPLACED and name not in used]


def resolved(setup: Setup) -> Setup:
    """`setup` with settings in the command filled in, and with the digests of its files as they are now.

    Raises:
        SettingsError: the command names no setting, or a file cannot be read.
    """
    if setup.model.command is None:
        return setup
    model = {"command": command(setup), "files": {name: digest(name) for name in setup.model.files}}
    return setup.model_copy(update={"model": setup.model.model_copy(update=model)})


def digest(name: str) -> str:
    """Hexadecimal digits that name the content of a file, or of all files in a folder.

    Raises:
        SettingsError: a file cannot be read, or there is none.
    """
    try:
        path = expanded(name)
        files = [path]
        if path.is_dir():
            inside = (file for file in path.rglob("*") if not IGNORED & set(file.relative_to(path).parts))
            files = sorted(file for file in inside if file.is_file())
        whole = hashlib.sha256()
        for file in files:
            with open(file, "rb") as opened:
                content = hashlib.file_digest(opened, "sha256").hexdigest()
            whole.update(f"{file.relative_to(path).as_posix()}\0{content}\0".encode(errors="surrogateescape"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(Fault("model.files", repr(name), f"cannot be read ({reason})")) from None
    return whole.hexdigest()[:DIGITS]


def changed(setup: Setup) -> list[str]:
    """Names of the files whose content is no longer that of `setup`, or that cannot be read any more."""

    def now(name: str) -> str | None:
        try:
            return digest(name)
        except SettingsError:
            return None

    return [name for name, known in setup.model.files.items() if now(name) != known]
