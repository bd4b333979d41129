"""The section `data.duplicates`: training images that stand in the training set several times."""

from fractions import Fraction
from typing import Annotated

from pydantic import Field, model_validator

from emmeter.errors import Fault, SettingsError
from emmeter.settings.types import Float, Int, Section, as_fraction


class Duplicates(Section):
    """Images of a subset that stand in the training set several times.  N counts different images."""

    share: Annotated[Float, Field(ge=0, le=1)] = Field(
        default=0.0,
        description="Share of the N images of a subset that are repeated. N counts different images: `subset.npz` "
        "holds the N images, and after them the repetitions. An epoch is as long as N images, whatever is repeated.",
    )
    times: Annotated[Int, Field(ge=1, le=10_000)] = Field(
        default=1, description="How often each of the repeated images stands in the training set."
    )

    @model_validator(mode="after")
    def _check(self) -> "Duplicates":
        if self.share and self.times == 1:
            rule = f"must be at least 2 beside share = {self.share:g}, which repeats nothing otherwise"
            raise SettingsError(Fault("times", "1", rule))
        if not self.share and self.times > 1:
            rule = f"must be above 0 beside times = {self.times}, which has no effect otherwise"
            raise SettingsError(Fault("share", "0", rule))
        return self

    def __str__(self) -> str:
        """The section as the tables of a study show it."""
        return f"{100 * self.share:g} % x {self.times}" if self.share else "none"

    def repeated(self, n: int) -> int:
        """Number of repeated images among `n`: the share of them, rounded to the nearest number, halves up."""
        return int(n * as_fraction(self.share) + Fraction(1, 2))

    def entries(self, n: int) -> int:
        """Number of entries of the training set that `n` different images make."""
        return n + self.repeated(n) * (self.times - 1)


def least_share(n: int) -> float:
    """The smallest share that repeats an image among `n`."""
    return 1 / (2 * n)
