"""Configuration files: merged, every arm resolved and validated before anything runs."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field

from emmeter import project
from emmeter.errors import SettingsError
from emmeter.settings.overrides import override, replaced
from emmeter.settings.sections import Execution, Figures, Setup
from emmeter.settings.sources import respelled
from emmeter.settings.studies import Arm, Finding, Settings, Study
from emmeter.settings.types import Section, Text
from emmeter.settings.validation import expected, lookup, validate

# Rules of the workflow, beside which studies are rules of their own.
RULES = (
    "all", "plan", "subset", "train", "sample", "score", "emm", "study", "figures", "onset_figure", "summary",
    "findings_table", "findings", "published", "report",
)  # fmt: skip
FILES = (Path("config/studies.yaml"), Path("config.yaml"))  # what the Snakefile loads before `fit` and overlays


def _no_overrides(value: object) -> object:
    return None if value == "null" else value  # text, from ``--config``


class _StudyText(Section):
    title: Text = ""
    source: Text = ""
    factor: Text = ""
    base: dict[str, Any] = Field({})  # dotted overrides that all arms share
    arms: Annotated[dict[str, Annotated[dict[str, Any] | None, BeforeValidator(_no_overrides)]], Field(min_length=1)]
    without: list[str] = Field([])  # arms left out, for overlays, which can add but not remove
    findings: dict[str, Finding] = Field({})


def _names(value: object) -> object:
    return [value] if isinstance(value, str) else value


class _ConfigText(Setup):
    """The file as it is written: `Setup` at the top level, and what is not an arm's beside it."""

    execution: Execution = Execution()
    figures: Figures = Figures()
    studies: Annotated[dict[str, _StudyText], Field(min_length=1)]
    fit: str | None = None  # file of how the studies differ at this scale, laid under the overlays
    run: Annotated[list[str], BeforeValidator(_names), Field(min_length=1)] = Field(["all"])


def load(
    overlays: Sequence[Path] = (), folder: Path = Path(), given: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Read the configuration of the project in `folder`, with overlays laid over it.

    The layers from bottom to top are `FILES`, the file that ``fit`` names, `overlays` and `given`.  Keys keep the order
    of the lowest layer that has them; keys of higher layers follow.  A file that `folder` lacks is taken from the
    project that this code belongs to.

    Args:
        overlays: files, as for Snakemake's ``--configfile``.
        folder: the folder of the project's own files.
        given: settings that Snakemake has read already, from ``--configfile``, ``--config`` or a module's ``config:``.
    Raises:
        SettingsError: a file cannot be read, or is not a YAML mapping, or ``fit`` names no file.
    """
    own = [_read(project.file(path, folder)) for path in FILES]
    over = [*map(_read, overlays), given]
    merged = reduce(_merged, [*own, *over], {})
    fit = files(merged, folder)[len(FILES) :]
    if not all(path.is_file() for path in fit):
        raise SettingsError(f"fit = {merged['fit']!r}: no such file")
    return reduce(_merged, [*own, *map(_read, fit), *over], {})


def files(config: Mapping[str, Any], folder: Path = Path()) -> list[Path]:
    """List the project's own files behind a configuration, from bottom to top: `FILES`, and the one of ``fit``."""
    fit = config.get("fit")
    names = [*FILES, *([Path(fit)] if isinstance(fit, str) and fit != "null" else [])]  # "null" from ``--config``
    return [project.file(path, folder) for path in names]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not YAML ({' '.join(str(error).split())})") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: must be a mapping of settings")
    return content


def _merged(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings are merged key by key, anything else is replaced."""
    result = dict(base)
    for key, value in overlay.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def read(config: Mapping[str, Any], asked: Collection[str] | None = None) -> Settings:
    """Validate a configuration and resolve its arms.

    Args:
        config: the nested mapping of the YAML files after overlays.
        asked: the studies that are to be made; None: those that ``run`` selects.
    Raises:
        SettingsError: one line for every fault, naming the key, the value and what is allowed.  Values that do not fit
            the base settings are a fault of studies that are to be made; others keep it in `Study.faults`.
    """
    text = validate(_ConfigText, config)
    names = list(text.studies)
    selected = names if text.run == ["all"] else list(dict.fromkeys(text.run))
    faults: list[str] = []
    studies = []
    base = {key: config[key] for key in Setup.model_fields if config.get(key) is not None}
    for name, study in text.studies.items():
        try:
            studies.append(_study(name, study, base))
        except SettingsError as error:
            faults += str(error).splitlines()
        else:
            faults += studies[-1].faults if name in (selected if asked is None else asked) else []
    faults += [f"run = {name!r}: {expected(name, names, 'a study')}" for name in selected if name not in names]
    if faults:
        raise SettingsError(*faults)
    return Settings(
        base=_respelled(validate(Setup, base)),
        execution=text.execution,
        figures=text.figures,
        studies=studies,
        selected=selected,
    )


def _study(name: str, text: _StudyText, base: Mapping[str, Any]) -> Study:
    """A study with the arms that fit the base settings.  Raises SettingsError if anything in it is misnamed."""
    misnamed = _misnamed(name, text)
    arms, faults = _arms(name, text, base)
    if misnamed:
        raise SettingsError(*dict.fromkeys(misnamed + faults))
    return Study(
        name=name,
        title=text.title or name,
        source=text.source,
        factor=text.factor,
        arms=arms,
        # A claim about an arm that this scale leaves out cannot be judged here.
        findings={key: claim for key, claim in text.findings.items() if not set(claim.arms) & set(text.without)},
        faults=faults,
    )


def _arms(name: str, text: _StudyText, base: Mapping[str, Any]) -> tuple[list[Arm], list[str]]:
    """The arms of a study, and a line for every value that does not fit the base settings."""
    try:
        shared = override(base, text.base)
    except SettingsError as error:
        return [], [f"studies.{name}.base: {line}" for line in str(error).splitlines()]
    arms: list[Arm] = []
    faults: list[str] = []
    for arm, overrides in text.arms.items():
        if arm in text.without:
            continue
        try:
            arms.append(Arm(name=arm, setup=_respelled(validate(Setup, override(shared, overrides or {})))))
        except SettingsError as error:
            faults += [f"studies.{name}.arms.{arm}: {line}" for line in str(error).splitlines()]
    return arms, faults


def _respelled(setup: Setup) -> Setup:
    """`setup` with the paths of its sources in one spelling, so that one place has one key."""
    spelled = {name: respelled(source) for name in ("source", "mixture") if (source := getattr(setup.data, name))}
    if all(getattr(setup.data, name) == text for name, text in spelled.items()):
        return setup
    return setup.model_copy(update={"data": setup.data.model_copy(update=spelled)})


def _misnamed(name: str, text: _StudyText) -> list[str]:
    """A line for every name in a study that is wrong whatever the base settings are."""
    place = f"studies.{name}"
    faults = []
    if not name.isidentifier() or name in RULES:
        faults.append(f"{place}: its name becomes a target: must be an identifier and none of {', '.join(RULES)}")
    faults += [
        f"{place}.without = {arm!r}: {expected(arm, list(text.arms), 'an arm of the study')}"
        for arm in text.without
        if arm not in text.arms
    ]
    if set(text.arms) <= set(text.without):
        faults.append(f"{place}.without = {text.without}: leaves no arm")
    faults += [f"{place}.base: {line}" for line in _unknown(text.base)]
    for arm, overrides in text.arms.items():
        if arm in text.without:
            continue
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", arm):
            rule = "a name must start with a letter or digit and hold only letters, digits and _ . + -"
            faults.append(f"{place}.arms.{arm}: {rule}")
        faults += [f"{place}.arms.{arm}: {line}" for line in _unknown(overrides or {})]
    if text.factor:
        try:
            lookup(Setup(), text.factor)
        except SettingsError as error:
            faults.append(f"{place}.factor: {error}")
    for finding, claim in text.findings.items():
        faults += [
            f"{place}.findings.{finding}.arms = {arm!r}: {expected(arm, list(text.arms), 'an arm of the study')}"
            for arm in claim.arms
            if arm not in text.arms
        ]
    return faults


def _unknown(overrides: Iterable[str]) -> list[str]:
    """A line for every dotted name that no value can be given to."""
    faults = []
    for dotted in overrides:
        try:
            replaced(Setup(), dotted)
        except SettingsError as error:
            faults.append(str(error))
    return faults


def json_schema() -> dict[str, Any]:
    """JSON schema of the configuration files, for editors."""
    return _ConfigText.model_json_schema()
