"""Configuration files: merged, every arm resolved and validated before anything runs."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from emmeter import project
from emmeter.errors import Fault, SettingsError
from emmeter.settings import invocation
from emmeter.settings.overrides import override, replaced
from emmeter.settings.sections import Setup
from emmeter.settings.sources import respelled
from emmeter.settings.studies import Arm, Settings, Study
from emmeter.settings.validation import expected, lookup, validate
from emmeter.settings.written import ConfigText, StudyText

# Rules of the workflow.  Each study is a rule too, so no study may have one of these names.
RULES = (
    "all", "plan", "subset", "train", "sample", "external", "score", "emm", "study", "figures", "onset_figure",
    "budget_figure", "progress_figure", "quality", "quality_table", "tradeoff", "criteria_table", "denoising",
    "denoising_table", "summary",
    "findings_table", "findings", "published", "shape", "report", "study_report", "workflow_report", "audit_shard",
    "audit_target",
)  # fmt: skip
FILES = (Path("config/studies.yaml"), Path("config.yaml"))  # what the Snakefile loads before `fit` and overlays


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
        raise SettingsError(f"{path}: is not YAML ({_yaml_fault(path, error)})") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: must be a mapping of settings")
    return content


def _yaml_fault(path: Path, error: Exception) -> str:
    """Where a file stops being YAML, and why, in one line."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    lines = path.read_text(encoding="utf-8").splitlines()
    tabbed = next((n for n, line in enumerate(lines[: mark.line + 1], 1) if re.match(r"[ ]*\t", line)), None)
    if tabbed is not None:
        return f"line {tabbed} is indented with a tab; use spaces"
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', None) or error}"


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
        asked: names of the studies to make.  None: those that ``run`` selects.

    Raises:
        SettingsError: a name or value is wrong.  Values that do not fit the base settings are faults only of the
            studies to make; other studies keep theirs in `Study.faults`.
    """
    text = validate(ConfigText, config)
    names = list(text.studies)
    selected = names if text.run == ["all"] else list(dict.fromkeys(text.run))
    faults: list[Fault] = []
    studies = []
    base = {key: config[key] for key in Setup.model_fields if config.get(key) is not None}
    for name, study in text.studies.items():
        try:
            studies.append(_study(name, study, base))
        except SettingsError as error:
            faults += error.faults
        else:
            faults += studies[-1].faults if name in (selected if asked is None else asked) else []
    faults += [Fault("run", repr(name), expected(name, names, "a study")) for name in selected if name not in names]
    for name in text.audits:
        if not name.isidentifier() or name in RULES or name in names:
            rule = "its name becomes a target: must be an identifier, and the name of no study and no rule"
            faults.append(Fault(f"audits.{name}", None, rule))
    if faults:
        raise SettingsError(*faults)
    return Settings(
        name=text.name,
        base=_respelled(validate(Setup, base)),
        execution=text.execution,
        figures=text.figures,
        studies=studies,
        selected=selected,
        audits=text.audits,
    )


def _study(name: str, text: StudyText, base: Mapping[str, Any]) -> Study:
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
        findings={key: claim for key, claim in text.findings.items() if not set(claim.names) & set(text.without)},
        faults=faults,
    )


def _arms(name: str, text: StudyText, base: Mapping[str, Any]) -> tuple[list[Arm], list[Fault]]:
    """The arms of a study, and one fault per value that does not fit the base settings."""
    try:
        shared = override(base, text.base)
    except SettingsError as error:
        return [], _placed(error, f"studies.{name}.base")
    arms: list[Arm] = []
    faults: list[Fault] = []
    for arm, overrides in text.arms.items():
        if arm in text.without:
            continue
        try:
            setup = _respelled(validate(Setup, override(shared, overrides or {})))
            arms.append(Arm(name=arm, setup=invocation.resolved(setup)))
        except SettingsError as error:
            faults += _placed(error, f"studies.{name}.arms.{arm}")
        else:
            rule = "has no effect, because model.command does not hold"
            faults += [
                Fault(dotted, None, f"{rule} {{{dotted}}}", f"studies.{name}.arms.{arm}")
                for dotted in invocation.ignored(setup, overrides or {})
            ]
    return arms, faults


def _placed(error: SettingsError, where: str) -> list[Fault]:
    return [replace(fault, where=where) for fault in error.faults]


def _respelled(setup: Setup) -> Setup:
    """`setup` with the paths of its sources and embeddings in one spelling, so that each place has one key."""
    names = ("source", "mixture", "labels")
    spelled = {name: respelled(source) for name in names if (source := getattr(setup.data, name))}
    if all(getattr(setup.data, name) == text for name, text in spelled.items()):
        return setup
    return setup.model_copy(update={"data": setup.data.model_copy(update=spelled)})


def _misnamed(name: str, text: StudyText) -> list[Fault]:
    """One fault per name in a study that no base settings could make right."""
    study, arms = f"studies.{name}", list(text.arms)
    faults = []
    if not name.isidentifier() or name in RULES:
        rule = f"its name becomes a target: must be an identifier and none of {', '.join(RULES)}"
        faults.append(Fault(study, None, rule))
    faults += [
        Fault(f"{study}.without", repr(arm), expected(arm, arms, "an arm of the study"))
        for arm in text.without
        if arm not in arms
    ]
    if set(arms) <= set(text.without):
        faults.append(Fault(f"{study}.without", str(text.without), "leaves no arm"))
    faults += _unknown(text.base, f"{study}.base")
    for arm, overrides in text.arms.items():
        if arm in text.without:
            continue
        where = f"{study}.arms.{arm}"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", arm):
            rule = "a name must start with a letter or digit and hold only letters, digits and _ . + -"
            faults.append(Fault(where, None, rule))
        faults += _unknown(overrides or {}, where)
    if text.factor:
        try:
            lookup(Setup(), text.factor)
        except SettingsError as error:
            faults += _placed(error, f"{study}.factor")
    for finding, claim in text.findings.items():
        faults += [
            Fault(f"{study}.findings.{finding}.arms", repr(arm), expected(arm, arms, "an arm of the study"))
            for arm in claim.names
            if arm not in arms
        ]
    return faults


def _unknown(overrides: Iterable[str], where: str) -> list[Fault]:
    """One fault per dotted name that cannot be given a value."""
    faults = []
    for dotted in overrides:
        try:
            replaced(Setup(), dotted)
        except SettingsError as error:
            faults += _placed(error, where)
    return faults
