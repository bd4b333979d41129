"""Studies: arms that differ in one factor, and claims about them."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from emmeter.settings.sections import Execution, Figures, Setup
from emmeter.settings.types import Float, Int, Section, Text


class Arm(Section):
    """One setting of a study's factor."""

    name: str
    setup: Setup


class Finding(Section):
    """A claim about the arms of a study, as data: `emmeter.measure.claims` judges it from their intervals.

    ``more`` and ``less``: the first arm's EMM against the second's.  ``same``: they differ by less than a factor of
    `margin`.  ``increasing`` and ``decreasing``: along all arms named.  ``proportional``: the first arm's onset of
    memorization grows in proportion to N.  With ``at`` the claim is about the memorization ratio of runs on so many
    images instead, compared by the odds of a copy.
    """

    claim: Text
    source: Text = ""
    expect: Literal["more", "less", "same", "increasing", "decreasing", "proportional"]
    arms: Annotated[list[str], Field(min_length=1)]
    margin: Annotated[Float, Field(gt=1, le=10)] = 1.25
    at: Annotated[Int, Field(ge=2)] | None = None  # training images, where the claim is about the ratio at one size

    @model_validator(mode="after")
    def _check(self) -> "Finding":
        if self.at is not None and self.expect == "proportional":
            raise ValueError(f"at = {self.at}: a claim of proportionality is about all sizes; leave it out")
        needed = {"proportional": (1, 1), "more": (2, 2), "less": (2, 2), "same": (2, 2)}.get(self.expect, (2, 100))
        if not needed[0] <= len(self.arms) <= needed[1] or len(set(self.arms)) != len(self.arms):
            count = f"{needed[0]} or more" if needed[1] == 100 else str(needed[0])
            raise ValueError(f"arms = {self.arms}: must be {count} different arms for expect: {self.expect}")
        return self


class Study(Section):
    """A factor study: arms that differ in one factor, and the figure of the paper that they follow."""

    name: str
    title: str
    source: str
    factor: str
    arms: list[Arm]
    findings: dict[str, Finding] = {}
    faults: list[str] = []  # a line for every value that does not fit the base settings; such arms are not among `arms`


class Settings(Section):
    """The whole configuration, resolved."""

    base: Setup
    execution: Execution
    figures: Figures
    studies: list[Study]
    selected: list[str]  # studies that the default target makes
