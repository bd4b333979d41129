"""Numbers and lists in words."""

from collections.abc import Sequence
from fractions import Fraction

from markupsafe import Markup, escape

NBSP = "\u00a0"


def listed(items: Sequence[str]) -> Markup:
    """Items as "a, b and c", escaped."""
    *first, last = map(escape, items)
    return Markup(", ").join(first) + Markup(" and ") + last if first else last


def fraction(value: float) -> str:
    """A threshold as it is usually written: "1/3", "0.4"."""
    simple = Fraction(value).limit_denominator(9)
    return str(simple) if abs(simple - Fraction(value)) < 1e-5 and simple.numerator == 1 else f"{value:.3g}"


def percent(share: float) -> str:
    """A share, 0 to 1, in per cent."""
    return f"{100 * share:.3g}{NBSP}%"


def span(values: Sequence[float], unit: str = "") -> str:
    """The range of whole numbers in words: "250", "10 to 640"."""
    low, high = min(values), max(values)
    return f"{low:,.0f}{unit}" if low == high else f"{low:,.0f} to {high:,.0f}{unit}"
