"""What the template shows of a study."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from emmeter.presentation.page.claims import Claim
from emmeter.presentation.page.intervals import Axis


@dataclass(frozen=True)
class Download:
    """A file inside the page, which a click saves."""

    path: str
    name: str
    """Suggested name of the saved file."""
    content: str
    """What is in it, in words."""
    rows: int
    href: str


@dataclass(frozen=True)
class Drawing:
    """A figure in a wide and a narrow form, with its text."""

    title: str
    subtitle: str
    wide: Markup
    narrow: Markup
    caption: Sequence[str]


@dataclass(frozen=True)
class ArmRow:
    """An arm in the table of a study.

    Attributes:
        value: of the factor, where the name does not tell it.
        shape, tint: numbers of its marker and its colour.
        emm, interval, plot: EMM in words, its interval, both drawn.
        ratio, ratio_interval, ratio_plot: the same for the ratio to the first arm.
        runs, confirming: numbers of its runs.
        note: letter of its note below the table, or nothing.
    """

    name: str
    value: str
    shape: int
    tint: int
    emm: str
    interval: str
    plot: Markup
    ratio: str
    ratio_interval: str
    ratio_plot: Markup
    runs: int
    confirming: int
    note: str


@dataclass(frozen=True)
class Tile:
    """A generated image above its two nearest training images, as one picture."""

    source: str
    alt: str
    ratio: str
    copy: bool


@dataclass(frozen=True)
class Example:
    """Generated images of one arm."""

    arm: str
    shape: int
    tint: int
    caption: str
    tiles: Sequence[Tile]
    side: int
    """Pixels of an image."""
    shown: str
    """Width and height of a tile's picture, as CSS writes a ratio."""


@dataclass(frozen=True)
class Measured:
    """What a later stage has measured of a study, as a table of text."""

    title: str
    note: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Cost:
    """Cost of the runs of all arms of a study; runs that arms share count in each.

    Attributes:
        images, flops: None if a command of the user's does not say.
    """

    arms: int
    runs: int
    images: float | None
    flops: float | None
    minutes: float


@dataclass(frozen=True)
class StudyPart:
    """Everything that the page shows of a study."""

    name: str
    anchor: str
    group: str
    title: str
    source: str
    factor: str
    headline: str
    setting: str
    claims: Sequence[Claim]
    drawings: Sequence[Drawing]
    arms: Sequence[ArmRow]
    unfinished: Sequence[str]
    """Arms of which at least half of the runs were not trained to the end."""
    baseline: str
    brackets: bool
    """Whether the limits of EMMs are neighbouring sizes instead of intervals."""
    paired: bool
    axis: Axis
    ratios: Axis
    notes: Sequence[tuple[str, str]]
    """Letters and texts."""
    examples: Sequence[Example]
    measured: Sequence[Measured]
    tables: Sequence[Download]
    cost: Cost
    runs: int
    sizes: tuple[int, int]
