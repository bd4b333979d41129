"""A study from made-up searches with known EMMs: one arm for every kind of answer."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from emmeter.measure.arms import ArmResult
from emmeter.measure.estimate import wilson
from emmeter.measure.outcome import Count, RunId
from emmeter.measure.search import ladder, replay
from emmeter.settings.sections import Search
from emmeter.stages import study

SEARCH = Search(n_min=10, n_max=640, start=40)
SIZES = ladder(SEARCH, 10, 640)
ARMS = {
    "small": 30.0,
    "large": 90.0,
    "beyond": 5000.0,
    "under": 1.0,
    "flat": math.nan,
    "middle": 60.0,
    "beyond-too": 5000.0,
}
CLAIMS = {  # expectation, arms, the verdict that follows from the true EMMs
    "larger": ("more", ["large", "small"], "reproduced"),
    "smaller": ("more", ["small", "large"], "differs at this scale"),
    "equal": ("same", ["large", "small"], "differs at this scale"),
    "rising": ("increasing", ["small", "middle", "large"], "reproduced"),
    "beyond": ("more", ["beyond", "large"], "reproduced"),  # from limits alone
    "under": ("less", ["beyond", "under"], "differs at this scale"),
    "lost": ("same", ["beyond", "beyond-too"], "not resolved"),
    "onset": ("proportional", ["small"], "differs at this scale"),  # between the same two snapshots at every N
    "no-onset": ("proportional", ["under"], "not resolved"),
}


def record(emm: float, seed: int) -> dict[str, Any]:
    """The record of a finished search on a model with this EMM, a slope of 2.9 and run scatter of 0.3 logits."""
    generator = np.random.default_rng(seed)
    counts: dict[RunId, Count] = {}
    while missing := (trail := replay(SEARCH, SIZES, counts)).missing:
        for run in missing:
            logit = math.log(9) + (0 if math.isnan(emm) else 2.9 * math.log2(emm / run.n)) + generator.normal(0, 0.3)
            counts[run] = Count(int(generator.binomial(500, 1 / (1 + math.exp(-logit)))), 500)
    runs = []
    for run in trail.runs:
        low, high = wilson(counts[run].memorized, 500)
        last = {
            "memorized": counts[run].memorized, "images": 500, "ratio": counts[run].ratio, "ratio_low": low,
            "ratio_high": high, "mean_distance": 7.5, "progress": 1.0, "images_seen": 1000,
        }  # fmt: skip
        early = last | {"memorized": 0, "ratio": 0.0, "ratio_low": 0.0, "ratio_high": 0.01, "progress": 0.5}
        runs.append(
            {
                "n": run.n,
                "replicate": run.replicate,
                "role": "confirm" if run in trail.confirm else "locate",
                "memorized": counts[run].memorized,
                "images": 500,
                "snapshots": [early | {"images_seen": 500}, last],
                "images_trained": 1000,
                "evaluations": 0,
                "seconds": 6.0,
            }
        )
    return {
        "rule": "bisection", "epsilon": 0.1, "threshold": 1 / 3, "snapshot": "last", "status": trail.status,
        "sizes": SIZES, "runs": runs, "images_trained": 1000 * len(runs), "flops": 10**9,
        "run_seconds": 6.0 * len(runs),
    }  # fmt: skip


def about(name: str, **changes: Any) -> dict[str, Any]:
    """An arm's entry in the description of a study."""
    return {
        "name": name, "value": "8", "search": SEARCH.model_dump(), "key": f"key-{name}", "emm_key": f"emm-{name}",
        "data": "digits", "resolution": 8, "budget": "1000 images", "multiple": 10, "available": 1740,
    } | changes  # fmt: skip


def arm(name: str, emm: float, seed: int, **changes: Any) -> ArmResult:
    """An arm with a finished search; `changes` are made to its entry in the description."""
    return ArmResult(about(name, **changes), record(emm, seed))


def description() -> dict[str, Any]:
    """The description of the study of all `ARMS` and `CLAIMS`."""
    return {
        "name": "made_up", "title": "Made up", "source": "Figure 9", "factor": "network.channels",
        "as_published": False,
        "arms": [about(name) for name in ARMS],
        "findings": [
            [
                name,
                {"claim": f"It is {name}", "expect": expect, "arms": arms, "margin": 1.5}
                | ({"source": "someone else"} if expect == "proportional" else {}),
            ]
            for name, (expect, arms, _) in CLAIMS.items()
        ],
    }  # fmt: skip


def gallery(count: int = 16, channels: int = 3) -> dict[str, np.ndarray]:
    """The arrays of a gallery.npz of made-up images, of which the first half are copies."""
    generator = np.random.default_rng(0)
    images = {side: generator.integers(0, 255, (count, channels, 8, 8), dtype=np.uint8) for side in
              ("generated", "nearest", "second")}  # fmt: skip
    ratio = np.linspace(0, 2 / 3, count)
    return images | {
        "d1": 30 * ratio, "d2": np.full(count, 30.0), "copy": ratio < 1 / 3,
        "rank": np.round(np.linspace(0, 499, count)).astype(int), "index": np.arange(count), "copies": np.array(250),
        "images": np.array(500), "n": np.array(30), "replicate": np.array(0),
    }  # fmt: skip


def write(folder: Path) -> Path:
    """Write the records and, by the study stage, the tables of the study; return `folder`."""
    records = [folder / f"{name}.json" for name in ARMS]
    for seed, (path, emm) in enumerate(zip(records, ARMS.values(), strict=True)):
        path.write_text(json.dumps(record(emm, seed)))
    outputs = [
        f"--{name}={folder / name}.csv" for name in ("emm", "curves", "contrasts", "findings", "onset", "budget")
    ]
    options = ["--study", json.dumps(description()), "--records", *map(str, records), f"--page={folder}/emm.html"]
    study.main([*options, *outputs])
    return folder
