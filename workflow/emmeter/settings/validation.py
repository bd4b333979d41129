"""Settings checked against their model.  Every fault names the key, its value and what is allowed."""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from emmeter.errors import Fault, SettingsError
from emmeter.settings.sections import Setup


def read_setup(config: Mapping[str, Any]) -> Setup:
    """Validate the (possibly partial) settings of one run, as stages receive them.

    Raises:
        SettingsError: a setting is unknown or has a value that is not allowed.
    """
    return validate(Setup, config)


def lookup(setup: Setup, dotted: str) -> Any:
    """The value of a dotted setting such as ``data.labels``.

    Raises:
        SettingsError: there is no setting of this name.
    """
    node: Any = setup
    parts = dotted.split(".")
    for depth, part in enumerate(parts):
        fields = list(type(node).model_fields) if isinstance(node, BaseModel) else []
        if part not in fields:
            prefix = ".".join(parts[:depth])
            if not fields:
                raise SettingsError(Fault(dotted, None, f"{prefix} is a value and has no keys"))
            rule = expected(part, fields, f"a key of {prefix}" if prefix else "a section")
            raise SettingsError(Fault(dotted, None, rule))
        node = getattr(node, part)
    return node


def validate(model: type, config: object) -> Any:
    """Return `config` as a `model`.

    Raises:
        SettingsError: one fault per setting that is unknown, missing or not allowed.
    """
    if not isinstance(config, Mapping):
        raise SettingsError(Fault("configuration", repr(config), "must be a mapping of settings"))
    # YAML reads a section whose lines are all commented out as null: it has its defaults.
    given = {key: {} if value is None and _is_section(model, key) else value for key, value in config.items()}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise SettingsError(
            *(fault for details in error.errors() for fault in _faults(model, given, details))
        ) from None


def _is_section(model: type[BaseModel], key: str) -> bool:
    annotation = model.model_fields[key].annotation if key in model.model_fields else None
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _faults(model: type[BaseModel], given: Mapping[str, Any], details: Mapping[str, Any]) -> Iterator[Fault]:
    """The faults behind one error of pydantic in `given`: one, or those that a section's own check names."""
    # Pydantic adds the member of a union that it tried to the location; a key never looks like these.
    member = re.compile(r"(list|literal|dict|function-\w+)\[.*\]")
    path = [str(part) for part in details["loc"] if not member.fullmatch(str(part))]
    key = ".".join(path) or "configuration"
    if isinstance(cause := details.get("ctx", {}).get("error"), SettingsError):  # a check over several keys
        yield from (replace(fault, key=".".join([*path, fault.key])) for fault in cause.faults)
    elif details["type"] == "extra_forbidden":
        section = f"a key of {'.'.join(path[:-1])}" if path[1:] else "a key"
        elsewhere = None if path[1:] else _misplaced(model, given, key)
        yield Fault(key, None, elsewhere or expected(path[-1], _fields(model, path[:-1]), section))
    elif details["type"] == "missing":
        yield Fault(key, None, "is missing")
    else:
        yield Fault(key, _shown(details["input"]), _rule(details))


def _misplaced(model: type[BaseModel], given: Mapping[str, Any], key: str) -> str | None:
    """The rule for a key at the top of `given` that belongs elsewhere: below `studies`, or in a section."""
    value, studies = given.get(key), given.get("studies")
    if isinstance(value, Mapping) and ("arms" in value or (isinstance(studies, Mapping) and key in studies)):
        return "is a study; write it below studies:" if "studies" in model.model_fields else None
    section, _, name = key.rpartition(".")
    sections = [part for part in model.model_fields if _is_section(model, part) and section in ("", part)]
    if owners := [part for part in sections if name in _fields(model, [part])]:
        text = shown if len(shown := str(value)) < 40 else "..."
        entries = " or ".join(f"{owner}: {{{name}: {text}}}" for owner in owners)
        words = " or ".join(f"'{owner}={{{name}: {text}}}'" for owner in owners)
        return f"is a key of {' and '.join(owners)}; write {entries}, or --config {words}"
    return None


def _rule(details: Mapping[str, Any]) -> str:
    """The rule that a value breaks, in our words."""
    rule = details["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if details["type"] == "literal_error" and isinstance(details["input"], str):
        near = difflib.get_close_matches(details["input"], re.findall(r"'([^']*)'", rule), 1)
        rule += f"; did you mean {near[0]!r}?" if near else ""
    return rule[:1].lower() + rule[1:]


def _shown(value: object) -> str:
    """A value as it is shown in a line, cut to 80 characters."""
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."


def _fields(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys of the section at `path`."""
    for part in path:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
        else:  # a mapping of names to models, such as `studies`
            inner = [a for a in get_args(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]
            model = inner[0] if inner else model
    return list(model.model_fields)


def expected(name: str, names: list[str], what: str) -> str:
    """The rule for an unknown name: it is not `what`, and the nearest name or all allowed names."""
    near = difflib.get_close_matches(name, names, 1, 0.5)
    return f"is not {what}; " + (f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(names)}")
