"""One measurement as a row: its case, hardware and versions."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks.timing import Ratio
from emmeter.files.provenance import provenance

ANYWHERE = "Independent of hardware"  # heading of results that are counted or simulated, not timed
PACKAGES = ("snakemake",)  # in addition to those of `emmeter.files.provenance.provenance`


@dataclass(frozen=True)
class Row:
    """One case of a benchmark.

    Attributes:
        ratios: our speed over that of a baseline, or the baseline's cost over ours, by the baseline's name: median,
            lower and upper quartile over the rounds.  "plain CPU" is the ratio to plain in processor time.
        ours: the measured value, in `units`; None if it could not be measured.
        plain: the value of the plain baseline, in `units`.
        tuned: the value of the tuned baseline, in `units`.
        details: conditions of the case, such as batch, threads and precision.
    """

    benchmark: str
    case: str
    ratios: dict[str, list[float]]
    ours: float | None
    plain: float | None
    tuned: float | None
    units: str
    details: dict[str, Any]
    hardware: str
    date: str
    commit: str | None
    versions: dict[str, str] = field(default_factory=dict)

    def json(self) -> str:
        """The row on one line."""
        return json.dumps(asdict(self), allow_nan=False)


def read(line: str) -> Row | None:
    """Read the row of a line of output; return None for any other line."""
    try:
        return Row(**json.loads(line))
    except (ValueError, TypeError):
        return None


def make(
    benchmark: str,
    case: str,
    units: str,
    ours: float | None,
    plain: float | None = None,
    ratio: Ratio | None = None,
    details: dict[str, Any] | None = None,
    device: str = "cpu",
    *,
    tuned: float | None = None,
    ratios: Mapping[str, Ratio] | None = None,
) -> Row:
    """Make a row for this machine and this moment; the arguments are fields of `Row`.

    Args:
        ratio: the ratio to plain, where it is the only one.
        device: cpu, cuda, or "" for results that do not depend on hardware.
    """
    machine = _machine()
    given = ({} if ratio is None else {"plain": ratio}) | dict(ratios or {})
    return Row(
        benchmark=benchmark,
        case=case,
        ratios={
            name: [_rounded(part) for part in (value.median, value.low, value.high)] for name, value in given.items()
        },
        ours=_rounded(ours),
        plain=_rounded(plain),
        tuned=_rounded(tuned),
        units=units,
        details={name: _rounded(value) for name, value in (details or {}).items()},
        hardware=hardware(device, machine["hardware"]),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        commit=machine["commit"],
        versions=machine["versions"],
    )


def hardware(device: str, processor: str) -> str:
    """Heading of a device: "CPU: name, cores" or "GPU: name, host processor"."""
    if device == "cuda":
        import torch

        return f"GPU: {torch.cuda.get_device_name()}, host {processor}"
    return f"CPU: {processor}" if device else ANYWHERE


@cache
def _machine() -> dict[str, Any]:
    record = provenance("", time.monotonic())
    return {**record, "versions": record["versions"] | dict(_installed(PACKAGES))}


def _installed(packages: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and version of each package that is installed: timings of training and sampling need none of them."""
    for name in packages:
        with suppress(PackageNotFoundError):
            yield name, version(name)


def commit() -> str | None:
    """The commit of the project, with + if files differ from it."""
    return _machine()["commit"]


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
