"""Which jobs build a compiled package: those of architectures that the workflow uses long enough for it to pay.

A package serves all training sizes, label counts and skip masks of an architecture.  So the steps of all requested
studies count together.  This module loads no torch.
"""

import math
import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Literal, get_args

from emmeter.measure.search import replay
from emmeter.pipeline.costs import Assumed
from emmeter.pipeline.index import Index
from emmeter.settings.keys import key
from emmeter.settings.sections import Setup, widest
from emmeter.training.architecture import Architecture, of_denoiser, of_step
from emmeter.training.schedule import budget

Stage = Literal["train", "sample"]
STAGES: tuple[Stage, ...] = get_args(Stage)  # whose jobs use packages

# Calls from which a package pays, per kind.  On two cores of a Xeon, the default study's network builds its step in
# 60 s and its denoiser in 30 s.  Then a step takes 4 ms less, and an evaluation of 250 images 6 ms less.
PAYS = {"step": 15_000, "denoiser": 5_000}
WIDEST = 64  # channels: wider networks spend nearly all time in convolutions, which no compiler makes faster


def planned(index: Index, studies: Sequence[str]) -> Counter[str]:
    """Training steps and evaluations of batches still to be made for some studies, by the text of the architecture.

    Studies that cannot run here contribute none.
    """
    work: Counter[str] = Counter()
    counted: set[tuple[str, object]] = set()
    possible = [name for name in studies if name not in index.impossible]
    setups = {key("emm", arm.setup): arm.setup for name in possible for arm in index.study(name).arms}
    for name, setup in setups.items():
        if setup.kind != "network":
            continue
        counts = index.finished(name)
        texts = {stage: architecture(index, stage, setup).text() for stage in STAGES}
        for run in replay(setup.search, index.sizes[name], Assumed(setup, counts)).runs:
            calls: dict[Stage, int] = {"train": budget(setup, run.n).steps, "sample": evaluations(index, setup)}
            for stage in STAGES:
                identity = (index.keys["emm", name][stage], run)  # arms may share trainings and samples
                if run not in counts and identity not in counted:
                    work[texts[stage]] += calls[stage]
                    counted.add(identity)
    return work


def evaluations(index: Index, setup: Setup) -> int:
    """Evaluations of a batch in the sampling of one run."""
    batches = math.ceil(setup.sampling.images / index.settings.execution.sampling_batch)
    return setup.evaluations * batches * len(setup.training.snapshots)


def architecture(index: Index, stage: Stage, setup: Setup) -> Architecture:
    """The architecture with which a stage's job of a run computes."""
    shape = index.shapes[key("subset", setup)]
    if stage == "train":
        return of_step(setup, shape)
    return of_denoiser(setup, shape, index.settings.execution.sampling_batch)


def builds(index: Index, stage: Stage, setup: Setup, work: Counter[str]) -> bool:
    """Whether the jobs of a run build the package of their network: on a CPU, for small networks with much to do."""
    wanted = architecture(index, stage, setup)
    small = widest(setup.network) <= WIDEST
    return small and wanted.precision != "bfloat16" and work[wanted.text()] >= PAYS[wanted.kind]


def missing_compiler() -> str | None:
    """A line for the user if torch would find no C++ compiler; None if it would."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler):
        return None
    return (
        f"note: this machine has no C++ compiler ({compiler}), with which trainings of small networks would be about"
        " 1.4 times as fast; they run without"
    )
