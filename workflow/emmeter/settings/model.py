"""The section `model`: a command of the user's that trains and samples a model, in place of the pipeline's network."""

import re
import shlex
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from emmeter.settings.types import Int, PositiveFloat, Section, Text

PLACES = ("subset", "samples", "state", "seed", "images", "threads", "device")  # filled in for each run
NEEDED = ("subset", "samples")
PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")  # doubled braces stand for themselves


def places(text: str) -> list[str]:
    """Names of the placeholders in a command."""
    return [match[1] for match in PLACE.finditer(text) if match[1] is not None]


def _command(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise ValueError(f"must be one line as a shell splits it ({str(error).lower()})") from None
    if not words:
        raise ValueError("must name a program")
    if "\0" in value:
        raise ValueError("must not hold a NUL character")
    found = places(value)
    if unknown := [name for name in found if name not in PLACES and "." not in name]:
        allowed = ", ".join(f"{{{name}}}" for name in PLACES)
        raise ValueError(f"has {{{unknown[0]}}}; allowed: {allowed}, and settings such as {{training.batch_size}}")
    if missing := [name for name in NEEDED if name not in found]:
        raise ValueError(f"must have {{{missing[0]}}}")
    return shlex.join(words)  # one spelling, so that two spellings share a key


def _files(value: object) -> object:
    if isinstance(value, list) and all(isinstance(name, str) and name for name in value):
        return dict.fromkeys(value)
    return value


class Model(Section):
    """A model of your own, which a command trains and samples, in place of the networks of the pipeline.

    The page "Your own model" says what the command receives and what it must write.
    """

    command: Annotated[Text | None, AfterValidator(_command)] = Field(
        default=None,
        description="Command that trains on a subset and writes generated images. Placeholders: `{subset}`, "
        "`{samples}`, `{state}`, `{seed}`, `{images}`, `{threads}`, `{device}`, and any setting, such as "
        "`{training.batch_size}`. It is split like a line of a shell, but runs without one, in the folder of the "
        "project. null: the networks of the pipeline.",
    )
    files: Annotated[
        dict[str, str | None], BeforeValidator(_files, json_schema_input_type=list[str] | dict[str, str | None])
    ] = Field(
        default={},
        description="Files and folders that `command` consists of, as a list. If their content changes, the runs of "
        "the arm are made again.",
    )
    minutes: PositiveFloat | None = Field(
        default=None,
        description="Expected duration of one run of `command` at `search.start` images, in minutes, for `emm plan` "
        "and time limits on clusters. null: not known.",
    )
    gpus: Annotated[Int, Field(ge=1, le=64)] = Field(default=1, description="GPUs that one run of `command` uses.")
