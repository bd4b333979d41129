"""Settings of runs on the digits, for tests of feasibility and subsets."""

from emmeter.data import datasets, feasibility
from emmeter.settings.sections import Setup

DIGITS = {"data": {"source": "digits"}, "search": {"n_min": 20, "n_max": 1740, "start": 160}}


def digits(**overrides) -> Setup:
    """A run on digits; `overrides` are whole sections, added to those of DIGITS."""
    merged = {name: DIGITS.get(name, {}) | overrides.get(name, {}) for name in {*DIGITS, *overrides}}
    return Setup.model_validate({"network": {"attention": [4]}} | merged)


def faults(setup: Setup) -> list[str]:
    return [str(fault) for fault in feasibility.faults(setup, datasets.describe(setup.data))]
