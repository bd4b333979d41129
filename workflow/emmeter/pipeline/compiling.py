"""Which jobs build a compiled package: those of architectures that the workflow uses long enough for it to pay.

A package serves all training sizes, label counts and skip masks of an architecture (`emmeter.training.packages`).  So
the steps of all requested studies count together.  This module loads no torch.
"""

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from typing import Literal, get_args

from emmeter.measure.search import replay
from emmeter.pipeline.costs import Assumed
from emmeter.pipeline.index import Index
from emmeter.settings.keys import Stage, key
from emmeter.settings.sections import Setup
from emmeter.training.schedule import budget

# Work from which a package pays.  On two cores of a Xeon, the default study's network builds its step in 60 s and its
# denoiser in 30 s.  Then a step takes 4 ms less, and an evaluation of 250 images 6 ms less.
STEPS, EVALUATIONS = 15_000, 5_000
WIDEST = 32  # channels: of wider networks, nearly all time is spent in convolutions that no compiler makes faster

Kind = Literal["step", "denoiser"]
KINDS: tuple[Kind, ...] = get_args(Kind)
STAGES: dict[Kind, Stage] = {"step": "train", "denoiser": "sample"}


def planned(index: Index, studies: Sequence[str]) -> Counter[str]:
    """Training steps and evaluations of batches still to be made for some studies, by `architecture`."""
    work: Counter[str] = Counter()
    setups = {key("emm", arm.setup): arm.setup for study in studies for arm in index.study(study).arms}
    counted: set[tuple[str, str, object]] = set()
    for name, setup in setups.items():
        if setup.diffusion.denoiser == "optimum":
            continue
        scores = index.scores(name)
        for run in replay(setup.search, index.sizes[name], Assumed(setup, scores)).runs:
            amounts: dict[Kind, int] = {"step": budget(setup, run.n).steps, "denoiser": evaluations(index, setup)}
            for kind in KINDS:
                stage = STAGES[kind]
                identity = (kind, key(stage, setup), run)  # arms may share trainings and samples
                if run not in scores and identity not in counted:
                    work[architecture(index, kind, setup)] += amounts[kind]
                    counted.add(identity)
    return work


def evaluations(index: Index, setup: Setup) -> int:
    """Evaluations of a batch in the sampling of one run."""
    batches = math.ceil(setup.sampling.images / index.settings.execution.sampling_batch)
    return (2 * setup.sampling.steps - 1) * batches * len(setup.training.snapshots)


def architecture(index: Index, kind: Kind, setup: Setup) -> str:
    """What runs that share a package have in common."""
    execution = index.settings.execution
    batch = setup.training.batch_size
    if kind == "denoiser":
        batch = min(execution.sampling_batch, setup.sampling.images)
    return json.dumps([
        kind, setup.network.model_dump(exclude={"skips"}), setup.diffusion.model_dump(),
        index.shapes[key("subset", setup)], batch,
        setup.training.precision if kind == "step" else setup.sampling.precision,
    ])  # fmt: skip


def builds(index: Index, kind: Kind, setup: Setup, work: Counter[str]) -> bool:
    """Whether jobs of a run build the package of their network: on a CPU, for small networks with much to do."""
    precision = setup.training.precision if kind == "step" else setup.sampling.precision
    small = setup.network.channels * max(setup.network.multipliers) <= 2 * WIDEST and setup.training.gpus == 1
    enough = work[architecture(index, kind, setup)] >= (STEPS if kind == "step" else EVALUATIONS)
    return small and enough and precision != "bfloat16"


def missing_compiler() -> str | None:
    """A line for the user if torch would find no C++ compiler; None if it would."""
    if shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++"):
        return None
    return (
        "note: this machine has no C++ compiler (g++), with which trainings of small networks would be about 1.4 times"
        " as fast; they run without"
    )
