"""The page docs/settings.md, made from the descriptions, types and defaults of the settings.

Renew it with `uv run python -m emmeter.settings.reference > docs/settings.md`.
"""

import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from emmeter.settings.written import json_schema

_HEAD = """\
# Settings

<!-- Made by `uv run python -m emmeter.settings.reference > docs/settings.md` from workflow/emmeter/settings/. -->

This page lists every key of the configuration files. `config/README.md` explains the files and their order.

The defaults are the paper's. `config.yaml` overrides many of them for the default study. An unknown key, or a value
outside its range, is reported before any job starts.

Values are written like this:

| value | examples |
|---|---|
| number | `0.002`, `2e-4`, `1/3` |
| duration | `16000 images`, `40000 epochs` (an epoch is N images, also if some are repeated) |
| span | `16000 images`, `200 epochs`, `2 %` of the duration |
| list | `[0.5, 1.0]` |
| no value | `null` |

The arms of a study can also compute with the base value: `times 3/2`, `add 2`. See [Studies and claims](studies.md).
"""
_NO_MODELS: Mapping[str, Any] = MappingProxyType({})


def page() -> str:
    """The page as Markdown: one table per section, one row per key."""
    schema = json_schema()
    models, keys = schema["$defs"], schema["properties"]
    sections = {name: models[_model(value)] for name, value in keys.items() if "$ref" in value}
    top = {name: keys[name] for name in ("name", "seed", "run", "fit", "studies", "audits")}
    parts = [
        _HEAD,
        _table("Keys at the top level", "", {"properties": top}),
        *(_table(f"`{name}`", f"{name}.", section, models) for name, section in sections.items()),
        _table("A study", "studies.NAME.", models["StudyText"]),
        _table("A claim of a study", "studies.NAME.findings.NAME.", models["Finding"]),
        _table("An audit", "audits.NAME.", models["AuditText"]),
    ]
    return "\n".join(parts)


def _model(value: Mapping[str, Any]) -> str:
    return value.get("$ref", "").rpartition("/")[2]


def _table(title: str, prefix: str, section: Mapping[str, Any], models: Mapping[str, Any] = _NO_MODELS) -> str:
    """One section: its description, and one row per key.  Names of keys follow `prefix`.

    Args:
        models: the schemas of the sections inside it, by name.
    """
    about = " ".join(section.get("description", "").split())
    lines = [f"## {title}", "", *([about, ""] if about else [])]
    lines += [f"The full names of these keys begin with `{prefix}`", ""] if prefix.endswith("NAME.") else []
    lines += ["| key | type and range | default | meaning |", "|---|---|---|---|"]
    lines += _rows("" if prefix.endswith("NAME.") else prefix, section, models)
    return "\n".join([*lines, ""])


def _rows(prefix: str, section: Mapping[str, Any], models: Mapping[str, Any]) -> Iterator[str]:
    """Rows of the keys of a section, and of those of a section inside it."""
    for name, value in section["properties"].items():
        if (model := models.get(_model(value))) is not None:
            yield from _rows(f"{prefix}{name}.", model, models)
            continue
        default = f"`{_written(value['default'])}`" if "default" in value else "required"
        yield f"| `{prefix}{name}` | {_kind(value)} | {default} | {value['description']} |"


def _kind(schema: Mapping[str, Any], plural: str = "") -> str:
    """Type and range of a key in words, from its JSON schema.  `plural` is the ending of nouns: "" or "s"."""
    if "anyOf" in schema:
        *others, last = (_kind(member) for member in schema["anyOf"])
        return f"{', '.join(others)}, or {last}"
    if "enum" in schema:
        return ", ".join(f"`{_written(value)}`" for value in schema["enum"])
    if schema["type"] == "array":
        fewest, most = schema.get("minItems"), schema.get("maxItems")
        count = f"{fewest} to {most} " if most else "one or more " if fewest else ""
        return f"list of {count}{_kind(schema['items'], 's')}"
    if schema["type"] in ("integer", "number"):
        noun = "whole number" if schema["type"] == "integer" else "number"
        return f"{noun}{plural}{_bounds(schema)}"
    names = {"boolean": "`true`, `false`", "null": "`null`", "object": "mapping", "string": "text"}
    return str(schema.get("format", names[schema["type"]]))


def _bounds(schema: Mapping[str, Any]) -> str:
    lower = [f"from {_written(schema['minimum'])}"] if "minimum" in schema else []
    lower += [f"above {_written(schema['exclusiveMinimum'])}"] if "exclusiveMinimum" in schema else []
    upper = [f"{'to' if 'minimum' in schema else 'up to'} {_written(schema['maximum'])}"] if "maximum" in schema else []
    upper += [f"below {_written(schema['exclusiveMaximum'])}"] if "exclusiveMaximum" in schema else []
    between = " " if "minimum" in schema and "maximum" in schema else ", "
    bounds = between.join([*lower, *upper])
    if "multipleOf" in schema:
        bounds += f", divisible by {schema['multipleOf']}"
    return f" {bounds}" if bounds else ""


def _written(value: Any) -> str:
    """A value as a configuration file writes it; a third as 1/3."""
    if isinstance(value, float):
        fraction = Fraction(value).limit_denominator(100)
        return str(fraction) if len(repr(value)) > 12 and float(fraction) == value else f"{value:g}"
    if value == 2**31:
        return "2^31"
    return value if isinstance(value, str) and value else json.dumps(value)


if __name__ == "__main__":
    print(page(), end="")
