"""The timed runs: settings of the project's configuration, on random images of their shape."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from benchmarks import timing
from emmeter.command import positive
from emmeter.data.subset import Subset
from emmeter.files.provenance import cores
from emmeter.machine.device import select
from emmeter.settings.configuration import load, read
from emmeter.settings.overrides import override
from emmeter.settings.sections import Setup
from emmeter.settings.studies import Settings
from emmeter.settings.types import Precision
from emmeter.settings.validation import validate

ROOT = Path(__file__).parents[1]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
STARTS = 3  # of each contestant in a fresh process
IMAGES = 1000  # in a subset; the time of a step does not depend on this number

# The paper's basic network at the widths and resolutions of its studies, as (study, arm) of config/paper.yaml.
PAPER = {
    "32x32 width 128": ("width", "x1"),
    "32x32 width 192": ("width", "x1.5"),
    "32x32 width 256": ("width", "x2"),
    "32x32 width 320": ("width", "x2.5"),
    "16x16 width 128": ("data_dimension", "half"),
    "8x8 width 128": ("data_dimension", "quarter"),
}
TINY = "tiny"  # the default study's network, on 8x8 digits
CASES = (TINY, *PAPER)
SHAPES = {"digits": 1, "cifar10": 3}  # image channels of the sources of these configurations


def configuration(overlay: str | None = None) -> Settings:
    """Read the project's configuration, with a file of config/ as an overlay."""
    return read(load([] if overlay is None else [ROOT / "config" / overlay], ROOT))


def case(name: str) -> Setup:
    """The settings of a case of CASES."""
    if name == TINY:
        return configuration().base
    study, arm = PAPER[name]
    arms = next(listed for listed in configuration("paper.yaml").studies if listed.name == study).arms
    return next(listed for listed in arms if listed.name == arm).setup


def adjusted(setup: Setup, **overrides: object) -> Setup:
    """Replace some settings of a run, named as section__key."""
    dotted = {name.replace("__", "."): value for name, value in overrides.items()}
    return validate(Setup, override(setup.model_dump(), dotted))


def shape(setup: Setup) -> tuple[int, int, int]:
    """(C, H, W) of the images of a run."""
    assert setup.data.resolution is not None  # every case gives it
    return SHAPES[setup.data.source], setup.data.resolution, setup.data.resolution


def random_subset(setup: Setup, count: int = IMAGES) -> Subset:
    """Make a subset of `count` random images of a run's shape, without labels."""
    images = np.random.default_rng(0).integers(0, 256, (count, *shape(setup)), dtype=np.uint8)
    nothing = np.zeros(0, np.int64)
    indices = np.arange(count)
    return Subset(
        images=images, labels=np.zeros(count, np.int64), label_count=0, indices=indices, groups=indices,
        held_out=images[:0], held_out_labels=nothing,
    )  # fmt: skip


def options(parser: argparse.ArgumentParser, cases: Sequence[str]) -> None:
    """Add the options for cases, precisions, threads and number of timings."""
    parser.add_argument("--cases", nargs="+", choices=cases, default=list(cases), metavar="CASE",
                        help=f"of {', '.join(map(repr, cases))}")  # fmt: skip
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, help="default: all distinct ones of the device")
    parser.add_argument("--threads", type=positive, help="default: 1 for the tiny network, otherwise all cores")
    parser.add_argument(
        "--starts", type=int, default=STARTS, choices=range(10), metavar="COUNT",
        help="starts of each way in a fresh process; 0: no rows of starts, compiling and memory",
    )  # fmt: skip
    parser.add_argument("--rounds", type=positive, default=timing.ROUNDS, help="timings of each way")


def chosen(args: argparse.Namespace) -> Iterator[tuple[str, Setup, torch.device, int]]:
    """Yield name, settings, device and threads of each requested case, with torch's threads set."""
    for name in args.cases:
        threads = args.threads or (1 if name == TINY else cores())
        yield name, case(name), select(args.device, threads), threads


def precisions(device: str) -> list[Precision]:
    """The distinct precisions of a device: on a CPU, TF32 is float32."""
    return [precision for precision in PRECISIONS if precision != "tf32" or device == "cuda"]
