"""Overrides of single settings, some relative to the base settings.

A study is defined once and fits every scale: ``times 3/2`` and ``add 2`` compute with the base value, and
``keep 1 4`` is a skip mask of the arm's own length.
"""

import copy
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from pydantic import BaseModel

from emmeter.errors import Fault, SettingsError
from emmeter.settings.sections import Setup, skip_count
from emmeter.settings.types import Span
from emmeter.settings.validation import lookup, validate


def replaced(setup: Setup, dotted: str) -> Any:
    """The value that an override replaces.

    Raises:
        SettingsError: the name is unknown, or that of a whole section.
    """
    value = lookup(setup, dotted)
    if isinstance(value, BaseModel):
        raise SettingsError(Fault(dotted, None, f"is a section; override its keys one by one, as {dotted}.KEY"))
    return value


def override(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with dotted overrides; relative values are computed from `base`.

    Raises:
        SettingsError: a name does not exist, is that of a section, or has a relative value that does not fit.
    """
    reference = validate(Setup, base)
    resolved = copy.deepcopy(dict(base))
    for dotted, value in overrides.items():
        before = replaced(reference, dotted)
        *path, last = dotted.split(".")
        node = resolved
        for part in path:
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        node[last] = _absolute(dotted, value, before)
    network = resolved.get("network")
    if isinstance(network, dict) and isinstance(network.get("skips"), str) and network["skips"] != "null":
        others = validate(Setup, resolved | {"network": {k: v for k, v in network.items() if k != "skips"}})
        network["skips"] = _mask(network["skips"], skip_count(others.network))
    return resolved


def _absolute(dotted: str, value: Any, before: Any) -> Any:
    """An override's value; ``times F`` and ``add A`` are computed from the base value `before`."""
    match = re.fullmatch(r"(times|add) (-?\d+(?:\.\d+)?(?:/[1-9]\d*)?)", value) if isinstance(value, str) else None
    if not match:
        return value
    operation, operand = match[1], Fraction(match[2]) if "/" not in match[2] else _fraction(match[2])

    def computed(number: Any) -> Any:
        exact = Fraction(str(number)) * operand if operation == "times" else Fraction(str(number)) + operand
        if isinstance(number, float):
            return float(exact)
        if exact.denominator != 1 and not dotted.startswith("search."):  # a hint of the search needs no exact value
            rule = f"gives {float(exact):g} from {before}, which is not a whole number"
            raise SettingsError(Fault(dotted, repr(value), rule))
        return round(exact)

    if isinstance(before, str) and operation == "times":
        try:
            span = Span.parse(before)
        except ValueError:
            pass
        else:
            return str(Span(float(Fraction(str(span.amount)) * operand), span.unit))
    if before is None and dotted == "network.attention":  # chosen for the arm's own images
        return None
    numbers = before if isinstance(before, list) else [before]
    if not numbers or any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
        rule = f"needs a number to compute with; the base value is {before!r}"
        raise SettingsError(Fault(dotted, repr(value), rule))
    return [computed(number) for number in before] if isinstance(before, list) else computed(before)


def _fraction(text: str) -> Fraction:
    numerator, denominator = text.split("/")
    return Fraction(numerator) / Fraction(denominator)


def _mask(text: str, count: int) -> list[int]:
    """Flags of a skip mask from ``keep 1 4``: connections counted from 1 in the order of the encoder."""
    match = re.fullmatch(r"keep((?: [1-9]\d*)+)", text)
    if not match:
        rule = "must be flags such as [1, 0, 1], or text such as 'keep 1 4'"
        raise SettingsError(Fault("network.skips", repr(text), rule))
    kept = [int(position) for position in match[1].split()]
    if max(kept) > count:
        raise SettingsError(Fault("network.skips", repr(text), f"the network has {count} skip connections"))
    return [int(position in kept) for position in range(1, count + 1)]
