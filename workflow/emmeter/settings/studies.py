"""Studies: arms that differ in one factor, and claims about them."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from emmeter.errors import Fault, SettingsError
from emmeter.settings.sections import Execution, Figures, Setup
from emmeter.settings.types import Float, Int, Section, Text


class Arm(Section):
    """One value of a study's factor: its name, and all settings of its runs."""

    name: str
    setup: Setup


class Finding(Section):
    """A claim about the arms of a study, which `emmeter.measure.claims` judges from their intervals."""

    claim: Text = Field(description="The claim in words.")
    source: Text = Field(default="", description="Where the claim is made, such as a section or figure of the paper.")
    expect: Literal["more", "less", "same", "increasing", "decreasing", "proportional"] = Field(
        description="`more`, `less`: EMM of the first arm against that of the second. `same`: the two differ by less "
        "than a factor of `margin`. `increasing`, `decreasing`: EMM along all arms named. `proportional`: the onset of "
        "memorization of the one arm grows in proportion to N.",
    )
    arms: Annotated[list[str], Field(min_length=1)] = Field(
        description="The arms in the order of the claim: one for `proportional`, two for `more`, `less` and `same`, "
        "two or more otherwise."
    )
    margin: Annotated[Float, Field(gt=1, le=10)] = Field(
        default=1.25, description="Factor by which two arms that memorize the `same` may differ."
    )
    at: Annotated[Int, Field(ge=2)] | None = Field(
        default=None,
        description="A number of training images: the claim is then about the memorization ratio of runs on so many "
        "images, compared by the odds of a copy. null: the claim is about EMM.",
    )

    @model_validator(mode="after")
    def _check(self) -> "Finding":
        if self.at is not None and self.expect == "proportional":
            rule = "a claim of proportionality is about all sizes; leave it out"
            raise SettingsError(Fault("at", str(self.at), rule))
        needed = {"proportional": (1, 1), "more": (2, 2), "less": (2, 2), "same": (2, 2)}.get(self.expect, (2, 100))
        if not needed[0] <= len(self.arms) <= needed[1] or len(set(self.arms)) != len(self.arms):
            count = f"{needed[0]} or more" if needed[1] == 100 else str(needed[0])
            rule = f"must be {count} different arms for expect: {self.expect}"
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

    base: Setup
    execution: Execution
    figures: Figures
    studies: list[Study]
    selected: list[str]
    """Names of the studies that the default target makes."""
