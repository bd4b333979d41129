"""One measurement as a row: what it compared, on what hardware, with which versions."""

import json
import time
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any

from benchmarks.timing import Ratio
from emmeter.files.provenance import provenance

ANYWHERE = "Independent of hardware"  # heading of what is counted or simulated, not timed
PACKAGES = ("snakemake",)  # beside those that `emmeter.files.provenance.provenance` names


@dataclass(frozen=True)
class Row:
    """One case of a benchmark.

    ``ratio`` says how many times as fast (or as cheap) as the plain baseline ours is: the median over pairs of runs,
    with the extremes in ``spread``; both None where there is no baseline.  ``ours`` and ``plain`` are in ``units``.
    ``details`` states what the case depends on: batch, threads, precision and so on.
    """

    benchmark: str
    case: str
    ratio: float | None
    spread: list[float] | None
    ours: float | None
    plain: float | None
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
    """The row of a line of output; None for any other line."""
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
) -> Row:
    """A row of this machine and this moment.

    Args:
        device: cpu, cuda, or "" for results that no hardware enters.
    """
    machine = _machine()
    return Row(
        benchmark=benchmark,
        case=case,
        ratio=None if ratio is None else _rounded(ratio.median),
        spread=None if ratio is None else [_rounded(ratio.low), _rounded(ratio.high)],
        ours=_rounded(ours),
        plain=_rounded(plain),
        units=units,
        details={name: _rounded(value) for name, value in (details or {}).items()},
        hardware=hardware(device, machine["hardware"]),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        commit=machine["commit"],
        versions=machine["versions"],
    )


def hardware(device: str, processor: str) -> str:
    """Heading of a device: "CPU: name, cores", or "GPU: name, in a machine of ..."."""
    if device == "cuda":
        import torch

        return f"GPU: {torch.cuda.get_device_name()}, host {processor}"
    return f"CPU: {processor}" if device else ANYWHERE


@cache
def _machine() -> dict[str, Any]:
    found = provenance("", time.monotonic())
    return {**found, "versions": found["versions"] | {name: version(name) for name in PACKAGES}}


def commit() -> str | None:
    """The commit of the project, with + where files differ from it."""
    return _machine()["commit"]


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
