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

from emmeter.errors import SettingsError
from emmeter.settings.sections import Setup, skip_count
from emmeter.settings.types import Span
from emmeter.settings.validation import lookup, validate


def replaced(setup: Setup, dotted: str) -> Any:
    """The value that an override replaces.  Raises SettingsError for an unknown name or a whole section."""
    was = lookup(setup, dotted)
    if isinstance(was, BaseModel):
        raise SettingsError(f"{dotted}: is a section; override its keys one by one, as {dotted}.KEY")
    return was


def override(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with dotted overrides, relative values computed from `base`.

    Raises:
        SettingsError: a name that does not exist, a section, or a relative value that does not fit.
    """
    reference = validate(Setup, base)
    resolved = copy.deepcopy(dict(base))
    for dotted, value in overrides.items():
        was = replaced(reference, dotted)
        *path, last = dotted.split(".")
        node = resolved
        for part in path:
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        node[last] = _relative(dotted, value, was)
    network = resolved.get("network")
    if isinstance(network, dict) and isinstance(network.get("skips"), str) and network["skips"] != "null":
        others = validate(Setup, resolved | {"network": {k: v for k, v in network.items() if k != "skips"}})
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
