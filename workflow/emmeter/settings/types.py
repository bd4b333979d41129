"""Types of settings: numbers and spans of training, also from text, and the strict section that holds settings."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def as_number(value: object) -> object:
    """Read a number that arrives as text: YAML 1.1 takes ``4e-3`` for a string, and ``--config`` may quote."""
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                pass
        if re.fullmatch(r"[0-9]{1,99}/[1-9][0-9]{0,99}", value):
            return float(Fraction(value))
    return value


def as_fraction(value: float) -> Fraction:
    """A number exactly as it was written: 0.2 is a fifth, and 1/3 is a third."""
    exact = Fraction(str(value))
    return exact.limit_denominator(10**9) or exact


def _boolean(value: object) -> object:
    """Read a boolean that arrives as text from ``--config``."""
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be text that can be written as UTF-8") from None
    return value


Text = Annotated[str, AfterValidator(_text)]
Int = Annotated[int, BeforeValidator(as_number)]
Float = Annotated[float, BeforeValidator(as_number), AfterValidator(_finite)]
Bool = Annotated[bool, BeforeValidator(_boolean)]
PositiveInt = Annotated[Int, Field(ge=1)]
PositiveFloat = Annotated[Float, Field(gt=0)]
Flag = Annotated[Literal[0, 1], BeforeValidator(as_number)]
Share = Annotated[Float, Field(gt=0, le=1)]
Decay = Annotated[Float, Field(ge=0, lt=1)]
Precision = Literal["float32", "tf32", "bfloat16"]


class Section(BaseModel):
    """A group of settings.  Unknown keys and wrong types are errors; values never change.

    Each field carries its description.  The JSON schema and docs/settings.md are made from these descriptions and from
    the types.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _nulls(cls, given: Any) -> Any:
        """Read a null that arrives as text from ``--config``, for settings that may be null."""
        if not isinstance(given, Mapping) or "null" not in (
            value for value in given.values() if isinstance(value, str)
        ):
            return given
        optional = {key for key, field in cls.model_fields.items() if type(None) in get_args(field.annotation)}
        return {key: None if key in optional and value == "null" else value for key, value in given.items()}


@dataclass(frozen=True)
class Span:
    """A stretch of training: a number of images, a number of passes over the training set, or a share of the budget."""

    amount: float
    unit: Literal["images", "epochs", "%"]

    @classmethod
    def parse(cls, text: object) -> "Span":
        """Read ``"40000 images"``, ``"200 epochs"`` or ``"2 %"``.

        Raises:
            ValueError: the text is anything else.
        """
        match = re.fullmatch(r"([0-9][0-9_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*(images|epochs|%)", str(text).strip())
        if not match or not math.isfinite(float(match[1])):
            raise ValueError('must be a span such as "40000 images", "200 epochs" or "2 %"')
        return cls(float(match[1]), match[2])  # type: ignore[arg-type]

    def images(self, train_size: int, budget: float = math.nan) -> float:
        """The span in training images, for N = `train_size` and a run of `budget` images (only % needs the budget)."""
        return self.amount * {"images": 1.0, "epochs": float(train_size), "%": budget / 100}[self.unit]

    def __str__(self) -> str:
        return f"{self.amount:.15g} {self.unit}"


def _with_unit(value: object) -> object:
    """Refuse a span without its unit.  Raises ValueError for a number, also if it arrives as text."""
    number = as_number(value)
    if isinstance(number, int | float) and not isinstance(number, bool):
        raise ValueError(f'needs a unit, such as "{value} images" or "{value} epochs"')
    return value


def _span(text: str) -> str:
    return str(Span.parse(text))  # one spelling per span, so that all its spellings share one key


def _duration(text: str) -> str:
    span = Span.parse(text)
    if span.unit == "%" or span.amount <= 0:
        raise ValueError('must be a positive number of images or epochs, such as "40000 epochs"')
    return str(span)


SpanText = Annotated[
    str, BeforeValidator(_with_unit), AfterValidator(_span), Field(json_schema_extra={"format": "span"})
]
DurationText = Annotated[
    str, BeforeValidator(_with_unit), AfterValidator(_duration), Field(json_schema_extra={"format": "duration"})
]
