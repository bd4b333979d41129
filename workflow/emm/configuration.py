"""Configuration files: merged, every arm resolved and validated before anything runs.

A study is defined once and fits every scale, because an arm's value may be relative to the base settings:
``times 3/2`` and ``add 2`` compute with them, and ``keep 1 4`` is a skip mask of the arm's own length.
"""

import copy
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, Field

from emm import project
from emm.settings import (
    RULES,
    Arm,
    Execution,
    Figures,
    Finding,
    Run,
    Section,
    Settings,
    SettingsError,
    Span,
    Study,
    Text,
    expected,
    lookup,
    skip_count,
    validate,
)

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


class _ConfigText(Run):
    """The file as it is written: `Run` at the top level, and what is not an arm's beside it."""

    execution: Execution = Execution()
    figures: Figures = Figures()
    studies: Annotated[dict[str, _StudyText], Field(min_length=1)]
    fit: str | None = None  # file of how the studies differ at this scale, laid under the overlays
    run: Annotated[list[str], BeforeValidator(_names), Field(min_length=1)] = Field(["all"])


def load(overlays: Sequence[Path] = (), folder: Path = Path()) -> dict[str, Any]:
    """The configuration of the project in `folder`, with `overlays` laid over it as by Snakemake's ``--configfile``.

    A file that `folder` lacks is taken from the project that this code belongs to.
    Raises:
        SettingsError: a file cannot be read, or is not a YAML mapping.
    """
    own = [project.file(path, folder) for path in FILES]
    merged = _laid([*own, *overlays])
    if isinstance(merged.get("fit"), str):
        merged = _laid([*own, project.file(Path(merged["fit"]), folder), *overlays])
    return merged


def _laid(paths: Iterable[Path]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"{path}: cannot be read ({error.strerror or error})") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path}: is not YAML ({' '.join(str(error).split())})") from None
        content = {} if content is None else content
        if not isinstance(content, dict):
            raise SettingsError(f"{path}: must be a mapping of settings")
        merged = _merged(merged, content)
    return merged


def _merged(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """Mappings are merged key by key, anything else is replaced."""
    result = dict(base)
    for key, value in overlay.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def ordered(config: Any, like: Any) -> Any:
    """`config` with its keys in the order of `like`, new ones last: Snakemake puts the keys of overlays first."""
    if not isinstance(config, Mapping) or not isinstance(like, Mapping):
        return config
    keys = [key for key in like if key in config] + [key for key in config if key not in like]
    return {key: ordered(config[key], like.get(key)) for key in keys}


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
    base = {key: config[key] for key in Run.model_fields if config.get(key) is not None}
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
        base=_respelled(validate(Run, base)),
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
            arms.append(Arm(name=arm, run=_respelled(validate(Run, override(shared, overrides or {})))))
        except SettingsError as error:
            faults += [f"studies.{name}.arms.{arm}: {line}" for line in str(error).splitlines()]
    return arms, faults


def _respelled(run: Run) -> Run:
    """`run` with the paths of its sources in one spelling, so that one place has one key."""
    spelled = {name: respelled(source) for name in ("source", "mixture") if (source := getattr(run.data, name))}
    if all(getattr(run.data, name) == text for name, text in spelled.items()):
        return run
    return run.model_copy(update={"data": run.data.model_copy(update=spelled)})


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
            lookup(Run(), text.factor)
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
            _value(Run(), dotted)
        except SettingsError as error:
            faults.append(str(error))
    return faults


def _value(run: Run, dotted: str) -> Any:
    """The value that an override replaces.  Raises SettingsError for an unknown name or a whole section."""
    was = lookup(run, dotted)
    if isinstance(was, BaseModel):
        raise SettingsError(f"{dotted}: is a section; override its keys one by one, as {dotted}.KEY")
    return was


def override(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with dotted overrides, relative values computed from `base`.

    Raises:
        SettingsError: a name that does not exist, a section, or a relative value that does not fit.
    """
    reference = validate(Run, base)
    resolved = copy.deepcopy(dict(base))
    for dotted, value in overrides.items():
        was = _value(reference, dotted)
        *path, last = dotted.split(".")
        node = resolved
        for part in path:
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        node[last] = _relative(dotted, value, was)
    network = resolved.get("network")
    if isinstance(network, dict) and isinstance(network.get("skips"), str) and network["skips"] != "null":
        others = validate(Run, resolved | {"network": {k: v for k, v in network.items() if k != "skips"}})
        network["skips"] = _mask(network["skips"], skip_count(others.network))
    return resolved


def _relative(dotted: str, value: Any, was: Any) -> Any:
    """An override's value; ``times F`` and ``add A`` are computed from the base value `was`."""
    match = re.fullmatch(r"(times|add) (-?\d+(?:\.\d+)?(?:/[1-9]\d*)?)", value) if isinstance(value, str) else None
    if not match:
        return value
    operation, number = match[1], Fraction(match[2]) if "/" not in match[2] else _fraction(match[2])

    def computed(one: Any) -> Any:
        exact = Fraction(str(one)) * number if operation == "times" else Fraction(str(one)) + number
        if isinstance(one, float):
            return float(exact)
        if exact.denominator != 1 and not dotted.startswith("search."):  # a hint of the search needs no exact value
            raise SettingsError(f"{dotted} = {value!r}: gives {float(exact):g} from {was}, which is not a whole number")
        return round(exact)

    if isinstance(was, str) and operation == "times":
        try:
            span = Span.parse(was)
        except ValueError:
            pass
        else:
            return str(Span(float(Fraction(str(span.amount)) * number), span.unit))
    numbers = was if isinstance(was, list) else [was]
    if was is None and dotted == "network.attention":  # chosen for the arm's own images
        return None
    if not numbers or any(isinstance(one, bool) or not isinstance(one, int | float) for one in numbers):
        raise SettingsError(f"{dotted} = {value!r}: needs a number to compute with; the base value is {was!r}")
    return [computed(one) for one in was] if isinstance(was, list) else computed(was)


def _fraction(text: str) -> Fraction:
    over, under = text.split("/")
    return Fraction(over) / Fraction(under)


def _mask(text: str, count: int) -> list[int]:
    """Flags of a skip mask from ``keep 1 4``: connections counted from 1 in encoder order."""
    match = re.fullmatch(r"keep((?: [1-9]\d*)+)", text)
    if not match:
        raise SettingsError(f"network.skips = {text!r}: must be flags such as [1, 0, 1], or text such as 'keep 1 4'")
    kept = [int(index) for index in match[1].split()]
    if max(kept) > count:
        raise SettingsError(f"network.skips = {text!r}: the network has {count} skip connections")
    return [int(index + 1 in kept) for index in range(count)]


def json_schema() -> dict[str, Any]:
    """JSON schema of the configuration files, for editors."""
    return _ConfigText.model_json_schema()
