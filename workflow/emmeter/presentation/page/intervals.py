"""Intervals inside the cells of a table: small SVGs on one logarithmic axis per column.

Places are per cent of the cell's width, so the drawings fit any column while text and markers keep their size.  The
style sheet of the page gives the colours, and its template the shapes that `use` names.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from emmeter.presentation.style import round_numbers

ROOM = 1.12  # factor by which an axis exceeds the numbers on it
FARTHEST = 16.0  # largest and, inverted, smallest ratio that an axis of ratios shows
LABELS = 6  # largest number of ticks


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis.

    Attributes:
        low, high: its ends.
        ticks: numbers on it.
        ratios: whether it is an axis of ratios, on which 1 is marked.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    ratios: bool

    def place(self, value: float) -> float:
        """The place of a number in per cent, 5 to 95; numbers beyond an end are placed at the end."""
        if value <= self.low:
            return 5.0
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(5 + 90 * min(share, 1.0), 1)

    def labels(self) -> Markup:
        """The numbers of the axis, for the head of a column."""
        kept = self.ticks.index(1.0) % 2 if 1.0 in self.ticks else 0  # narrow columns drop every other number
        texts = "".join(
            f'<text x="{self.place(tick)}%" y="12"{"" if index % 2 == kept else " class=minor"}>{tick:,.10g}</text>'
            for index, tick in enumerate(self.ticks)
        )
        return Markup(f'<svg class="plot axis" aria-hidden="true">{texts}</svg>')

    def draw(
        self,
        middle: float | None,
        low: float | None,
        high: float | None,
        *,
        shape: int = 0,
        predicted: tuple[float, float] | None = None,
    ) -> Markup:
        """Draw a number as a marker and its interval as a bar; an arrow stands for an end that is open or off the axis.

        Args:
            middle, low, high: None where there is none.
            shape: of the marker.
            predicted: range to shade; 0 and infinity for no bound.
        """
        parts = []
        if predicted:
            left = self.place(predicted[0]) if predicted[0] > 0 else 0.0
            right = self.place(predicted[1]) if predicted[1] < math.inf else 100.0
            parts.append(f'<rect class="predicted" x="{left}%" width="{right - left:.1f}%" height="100%"/>')
        parts += [_vertical("grid", self.place(tick)) for tick in self.ticks]
        if self.ratios:
            parts.append(_vertical("one", self.place(1)))
        if low is not None or high is not None:
            left, right = 2.0 if low is None else self.place(low), 98.0 if high is None else self.place(high)
            parts.append(f'<line class="bar" x1="{left}%" x2="{right}%" y1="50%" y2="50%"/>')
            if low is None or low < self.low:
                parts.append(_symbol("left", left))
            if high is None or high > self.high:
                parts.append(_symbol("right", right))
        if middle is not None:
            parts.append(_symbol(f"m{shape}", self.place(middle), "dot"))
        return Markup(f'<svg class="plot" aria-hidden="true">{"".join(parts)}</svg>')


def axis(numbers: Iterable[float | None], *, ratios: bool = False) -> Axis:
    """The axis that holds these numbers; an axis of ratios also holds 1, and none beyond `FARTHEST`."""
    known = [number for number in numbers if number]
    if ratios:
        known = [1.0, *(min(max(number, 1 / FARTHEST), FARTHEST) for number in known)]
    low, high = min(known, default=10.0) / ROOM, max(known, default=100.0) * ROOM
    return Axis(low, high, tuple(round_numbers(low, high, LABELS, whole=not ratios and high > LABELS)), ratios)


def _vertical(name: str, place: float) -> str:
    return f'<line class="{name}" x1="{place}%" x2="{place}%" y2="100%"/>'


def _symbol(name: str, place: float, kind: str = "end") -> str:
    return f'<use class="{kind}" href="#{name}" x="{place}%" y="50%"/>'
