"""Studies: arms that differ in one factor, and claims about them."""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from emmeter.errors import Fault, SettingsError
from emmeter.settings.audits import AuditText
from emmeter.settings.sections import Execution, Figures, Setup
from emmeter.settings.types import Float, Int, Section, Text


class Arm(Section):
    """One value of a study's factor: its name, and all settings of its runs."""

    name: str
    setup: Setup


# How many entries `arms` of a claim has, by what it expects; 2 or more otherwise.
_ARMS: dict[str, tuple[Callable[[int], bool], str]] = {
    "proportional": (lambda number: number == 1, "1"),
    "forecast": (lambda number: number >= 4, "4 or more"),
    **dict.fromkeys(("more", "less", "same"), (lambda number: number == 2, "2")),
}


class Finding(Section):
    """A claim about the arms of a study, which `emmeter.measure.claims` judges from their intervals."""

    claim: Text = Field(description="The claim in words.")
    source: Text = Field(default="", description="Where the claim is made, such as a section or figure of the paper.")
    expect: Literal["more", "less", "same", "increasing", "decreasing", "proportional", "forecast"] = Field(
        description="`more`, `less`: EMM of the first arm against that of the second. `same`: the two differ by less "
        "than a factor of `margin`. `increasing`, `decreasing`: EMM along all arms named. `proportional`: the onset of "
        "memorization of the one arm grows in proportion to N. `forecast`: EMM of the last arm is that which the law "
        "of the training budget forecasts from the other arms.",
    )
    arms: Annotated[list[str | Annotated[list[str], Field(min_length=2)]], Field(min_length=1)] = Field(
        description="The arms in the order of the claim: one for `proportional`, two for `more`, `less` and `same`, "
        "four or more for `forecast`, two or more otherwise. A list in the place of an arm stands for the geometric "
        "mean of its EMMs."
    )
    margin: Annotated[Float, Field(gt=1, le=10)] = Field(
        default=1.25, description="Factor by which EMMs that are the `same`, or a `forecast`, may differ."
    )
    at: Annotated[Int, Field(ge=2)] | None = Field(
        default=None,
        description="A number of training images: the claim is then about the memorization ratio of runs on so many "
        "images, compared by the odds of a copy. null: the claim is about EMM.",
    )

    @property
    def sides(self) -> list[tuple[str, ...]]:
        """The entries of `arms`, each as a tuple of names."""
        return [(entry,) if isinstance(entry, str) else tuple(entry) for entry in self.arms]

    @property
    def names(self) -> list[str]:
        """The names of all arms in `arms`."""
        return [name for side in self.sides for name in side]

    @model_validator(mode="after")
    def _check(self) -> "Finding":
        if self.at is not None and self.expect in ("proportional", "forecast"):
            rule = f"a claim of expect: {self.expect} is about all sizes; leave it out"
            raise SettingsError(Fault("at", str(self.at), rule))
        count, words = _ARMS.get(self.expect, (lambda number: number >= 2, "2 or more"))
        if not count(len(self.arms)) or len(set(self.names)) != len(self.names):
            rule = f"must be {words} different arms for expect: {self.expect}"
            raise SettingsError(Fault("arms", str(self.arms), rule))
        if len(self.names) > len(self.arms) and (self.at is not None or self.expect in ("proportional", "forecast")):
            rule = "a mean of several arms is compared by EMM only: must be names of arms here"
            raise SettingsError(Fault("arms", str(self.arms), rule))
        return self


class Study(Section):
    """A factor study, resolved."""

    name: str
    title: str
    source: str
    """The figure or section of the paper that the study follows."""
    factor: str
    """Dotted name of the setting that the arms vary, or empty."""
    arms: list[Arm]
    findings: dict[str, Finding] = Field(default={})
    faults: list[Fault] = Field(default=[])
    """Values that do not fit the base settings.  Their arms are not among `arms`."""


class Settings(Section):
    """The whole configuration, resolved."""

    name: str = "experiment"
    """Of the experiment: the folder of its tables."""
    base: Setup
    execution: Execution
    figures: Figures
    studies: list[Study]
    selected: list[str]
    """Names of the studies that the default target makes."""
    audits: dict[str, AuditText] = Field(default={})
    """Audits of images of any origin, by the names of their targets."""
