"""The section `quality.thresholds`: where copies are counted again under other criteria."""

from typing import Annotated

from pydantic import Field, model_validator

from emmeter.errors import Fault, SettingsError
from emmeter.settings.types import Float, Section

Inside = Annotated[Float, Field(gt=0, lt=1)]  # between 0 and 1; `types.Share` may be 1


class Thresholds(Section):
    """Thresholds of the criteria in `criteria.csv`, increasing.  An empty list leaves a criterion out."""

    ratio: list[Inside] = Field(
        default=[0.2, 0.25, 1 / 3, 0.4, 0.5], description="`ratio`: d1 / d2 below which an image is a copy."
    )
    calibrated: list[Annotated[Float, Field(gt=0)]] = Field(
        default=[0.3, 0.4, 0.5, 0.6],
        description="`calibrated`: d1 over the mean distance of the nearest training image to its 50 nearest ones.",
    )
    absolute: list[Annotated[Float, Field(gt=0, lt=256)]] = Field(
        default=[8.0, 16.0, 32.0], description="`absolute`: d1 / sqrt(pixel values), in grey levels."
    )
    cosine: list[Inside] = Field(
        default=[0.9, 0.95], description="`cosine SPACE`: cosine of features above which an image is a copy."
    )

    @model_validator(mode="after")
    def _check(self) -> "Thresholds":
        for name, values in self.model_dump().items():
            if values != sorted(set(values)):
                raise SettingsError(Fault(name, str(values), "must be increasing thresholds"))
        return self
