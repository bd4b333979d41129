"""Configuration files as they are written: the keys of all files, before the arms of studies are resolved."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from emmeter.settings.audits import AuditText
from emmeter.settings.sections import Execution, Figures, Setup
from emmeter.settings.studies import Finding
from emmeter.settings.types import Section, Text

# Folders of results that all experiments share, and so no name of an experiment.
FOLDERS = frozenset(
    {"subsets", "runs", "samples", "scores", "emm", "quality", "denoising", "state", "studies", "reference", "audits"}
)


def _no_overrides(value: object) -> object:
    return None if value == "null" else value  # text, from ``--config``


def _names(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _experiment(value: object) -> object:
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if isinstance(text, str) and (not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", text) or text in FOLDERS):
        raise ValueError(
            "must start with a letter or digit, hold only letters, digits and _ . + -, and be none of "
            f"{', '.join(sorted(FOLDERS))}"
        )
    return text


class StudyText(Section):
    """A study as it is written: arms that differ in one factor, and claims about them."""

    title: Text = Field(default="", description="Title in the figures and the report. Empty: the study's name.")
    source: Text = Field(default="", description="The figure or section of the paper that the study follows.")
    factor: Text = Field(
        default="",
        description="Dotted name of the setting that the arms vary, such as `data.labels`. The tables show its value "
        "for each arm.",
    )
    base: dict[str, Any] = Field(
        default={},
        description="Settings that all arms share, as dotted names: `training.duration: times 2`.",
    )
    arms: Annotated[
        dict[str, Annotated[dict[str, Any] | None, BeforeValidator(_no_overrides)]], Field(min_length=1)
    ] = Field(description="The settings of each arm that differ from `base`, as dotted names, by the arm's name.")
    without: list[str] = Field(
        default=[], description="Arms to leave out. For overlays, which can add arms but not remove them."
    )
    findings: dict[str, Finding] = Field(default={}, description="Claims about the arms, by a short name.")


class ConfigText(Setup):
    """A configuration as it is written: the base settings, and beside them all that belongs to no arm."""

    name: Annotated[str, Field(max_length=60), BeforeValidator(_experiment)] = Field(
        default="experiment",
        description="Name of the experiment. Its tables, figures and page are stored in `results/<name>/`. Runs are "
        "shared by all experiments.",
    )
    execution: Execution = Execution()
    figures: Figures = Figures()
    studies: Annotated[dict[str, StudyText], Field(min_length=1)] = Field(
        description="Studies by their names. Each is a target of its own: `snakemake width`."
    )
    audits: dict[str, AuditText] = Field(
        default={}, description="Audits by their names. Each is a target of its own, and none is made by default."
    )
    fit: str | None = Field(
        default=None,
        description="File that adapts the studies to this scale. It is read after `config.yaml` and before the files "
        "of `--configfile`. null: none.",
    )
    run: Annotated[list[str], BeforeValidator(_names, json_schema_input_type=str | list[str]), Field(min_length=1)] = (
        Field(default=["all"], description="Studies that `snakemake` makes by default: a list of names, or `all`.")
    )


_STANDARD = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
}


def json_schema() -> dict[str, Any]:
    """JSON schema of the configuration files, for editors and for the page of settings."""
    return _standard(ConfigText.model_json_schema())


def _standard(node: Any) -> Any:
    """`node` with JSON Schema's names of bounds: pydantic writes its own where a type is read from text, too."""
    if isinstance(node, dict):
        return {_STANDARD.get(name, name): _standard(value) for name, value in node.items()}
    return [_standard(item) for item in node] if isinstance(node, list) else node
