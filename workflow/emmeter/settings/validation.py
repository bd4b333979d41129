"""Settings checked against their model: every fault is one line that names the key, its value and what is allowed."""

import difflib
import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from emmeter.errors import SettingsError
from emmeter.settings.sections import Setup


def read_setup(config: Mapping[str, Any]) -> Setup:
    """Validate the (possibly partial) settings of one run, as stages receive them.  Raises SettingsError."""
    return validate(Setup, config)


def lookup(setup: Setup, dotted: str) -> Any:
    """The value of a dotted setting such as ``data.labels``.  Raises SettingsError for a name that does not exist."""
    node: Any = setup
    parts = dotted.split(".")
    for depth, part in enumerate(parts):
        fields = list(type(node).model_fields) if isinstance(node, BaseModel) else []
        if part not in fields:
            prefix = ".".join(parts[:depth])
            if not fields:
                raise SettingsError(f"{dotted}: {prefix} is a value and has no keys")
            raise SettingsError(f"{dotted}: {expected(part, fields, f'a key of {prefix}' if prefix else 'a section')}")
        node = getattr(node, part)
    return node


def validate(model: type, config: object) -> Any:
    """`config` as a `model`.  Raises SettingsError: one line for every fault."""
    if not isinstance(config, Mapping):
        raise SettingsError(f"configuration = {config!r}: must be a mapping of settings")
    # A section whose lines are all commented out is null in YAML; it has its defaults.
    given = {key: {} if value is None and _is_section(model, key) else value for key, value in config.items()}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise SettingsError(*(_line(model, fault) for fault in error.errors())) from None


def _is_section(model: type[BaseModel], key: str) -> bool:
    annotation = model.model_fields[key].annotation if key in model.model_fields else None
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _line(model: type[BaseModel], fault: Mapping[str, Any]) -> str:
    """One fault as one line: key = value: what is allowed."""
    # Pydantic adds the tried member of a union to the location; a key never looks like these.
    member = re.compile(r"(list|literal|dict|function-\w+)\[.*\]")
    path = [str(p) for p in fault["loc"] if not member.fullmatch(str(p))]
    key = ".".join(path) or "configuration"
    if fault["type"] == "extra_forbidden":
        fields = _fields(model, path[:-1])
        return f"{key}: {expected(path[-1], fields, 'a key of ' + '.'.join(path[:-1]) if path[1:] else 'a key')}"
    if fault["type"] == "missing":
        return f"{key}: is missing"
    message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    whole = isinstance(fault["input"], Mapping | BaseModel) and not message.startswith("must ")
    if fault["type"] == "value_error" and whole:
        return ".".join([*path, message])  # a check over several keys names its own
    if fault["type"] == "literal_error" and isinstance(fault["input"], str):
        near = difflib.get_close_matches(fault["input"], re.findall(r"'([^']*)'", message), 1)
        message += f"; did you mean {near[0]!r}?" if near else ""
    shown = repr(fault["input"])
    return f"{key} = {shown if len(shown) < 80 else shown[:77] + '...'}: {message[:1].lower() + message[1:]}"


def _fields(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
        else:  # a mapping of names to models, such as `studies`
            inner = [a for a in get_args(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]
            model = inner[0] if inner else model
    return list(model.model_fields)


def expected(name: str, names: list[str], what: str) -> str:
    """The end of a line about an unknown name: the nearest one, or all that are allowed."""
    near = difflib.get_close_matches(name, names, 1, 0.5)
    return f"is not {what}; " + (f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(names)}")
