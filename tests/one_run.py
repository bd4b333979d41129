"""The stages of one run, called one by one with the command lines of the workflow.

Network and images are so small that each stage takes a fraction of a second.
"""

import importlib
import json
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emmeter.command import command
from emmeter.files import checksums
from emmeter.files.layout import ARM_STAGES, FILES, RECORDS, arm_folder, run_folder
from emmeter.files.npz import write_npz
from emmeter.pipeline.description import description
from emmeter.pipeline.index import index_of
from emmeter.settings.configuration import read
from emmeter.settings.keys import Stage, key, stage_settings
from emmeter.settings.sections import Setup
from emmeter.settings.validation import read_setup

HEAD = re.compile(
    r".+: N = \d+, replicate \d+|(subset|train|sample|external|score|emm|denoising): (?!error).*|end: .*"
)  # head and end of logs
CONTENT: dict[str, Any] = {
    "data": {"source": "digits", "held_out": 8},
    "network": {"channels": 8, "multipliers": [1, 1], "blocks": 1, "attention": [4], "dropout": 0.1},
    "diffusion": {"preconditioning": "edm"},
    "training": {
        "duration": "640 images",
        "batch_size": 16,
        "lr_ramp": "10 %",
        "ema_decays": [0.9, 0.5],
        "ema_ramp": "10 %",
        "snapshots": [0.25, 0.5, 1.0],
    },
    "sampling": {"images": 24, "steps": 4},
    "search": {"rule": "grid", "grid": [20], "replicates": 1},
}
STAGES: tuple[Stage, ...] = ("subset", "train", "sample", "score", "emm", "quality", "denoising")


def replaced(path: Path, **arrays: np.ndarray) -> None:
    """Replace arrays of a stage's file, as if the stage had written them."""
    with np.load(path) as archive:
        write_npz(path, **{**archive, **arrays})
    checksums.record(*(entry for entry in path.parent.iterdir() if entry.name != checksums.NAME))


def messages(errors: str) -> list[str]:
    """The lines of standard error without the head and the end of the log."""
    return [line for line in errors.splitlines() if not HEAD.fullmatch(line)]


@dataclass(frozen=True)
class Pipeline:
    """One run of N = 20 images, replicate 0, in the folder `results`, with the search and the study of this run."""

    results: Path
    content: dict[str, Any] = field(default_factory=lambda: CONTENT)
    n: int = 20
    replicate: int = 0
    state_seconds: float = 30.0

    @property
    def setup(self) -> Setup:
        return read_setup(self.content)

    def folder(self, stage: Stage) -> Path:
        name = key(stage, self.setup)
        if stage in ARM_STAGES:
            return arm_folder(self.results, stage, name)
        return run_folder(self.results, stage, name, self.n, self.replicate)

    def file(self, stage: Stage, name: str = "") -> Path:
        """Path of a file of a stage, by default the first one that is not its record."""
        return self.folder(stage) / (name or FILES[stage][0])

    def record(self, stage: Stage) -> Path:
        return self.folder(stage) / RECORDS[stage]

    @property
    def state(self) -> Path:
        return self.results / "state" / key("train", self.setup) / f"n{self.n}-r{self.replicate}"

    @property
    def study(self) -> Path:
        return self.results / "experiment" / "faults"

    def description(self) -> str:
        """Description of the study of this one arm, as JSON for the study stages."""
        settings = read(self.content | {"studies": {"faults": {"arms": {"one": {}}}}})
        return json.dumps(description(index_of(settings, self.results), "faults"))

    def arguments(self, stage: str) -> list[str]:
        """Command line of a stage of `STAGES`, of a study or of several studies, after ``python -m``."""
        module = f"emmeter.stages.{stage}"
        tables = {
            name: str(self.study / f"{name}.csv")
            for name in ("emm", "curves", "contrasts", "findings", "onset", "budget")
        }
        options: dict[str, object]
        if stage == "study":
            options = {"study": self.description(), "records": self.record("emm"), "page": self.study / "emm.html"}
            return [module, *_flat(options | tables)]
        if stage == "figures":
            options = {name: tables[name] for name in ("emm", "curves", "contrasts")} | {"galleries": self.file("emm")}
            return [
                module,
                *_flat({"study": self.description(), "style": '{"dpi": 50}', "folder": self.study} | options),
            ]
        if stage == "quality_table":
            study = json.dumps({"name": "faults", "arms": [{"name": "one", "value": ""}]})
            outputs = {name: self.study / f"{name}.csv" for name in ("quality", "copied")}
            return [module, *_flat({"study": study, "tables": self.file("quality")} | outputs)]
        if stage == "denoising_table":
            about = {"study": self.description(), "style": '{"dpi": 50}', "folder": self.study}
            measured = json.dumps({"name": "faults", "arms": [{"name": "one", "value": ""}]})
            tables_of = {"measured": measured, "emm": tables["emm"], "tables": self.file("denoising")}
            return [module, *_flat(about | tables_of)]
        if stage == "criteria_table":
            records = {"records": self.record("emm"), "tables": self.file("quality", "criteria.csv")}
            return [
                module, *_flat({"study": self.description(), "output": self.study / "criteria.csv"} | records)
            ]  # fmt: skip
        if stage == "tradeoff":
            options = {name: tables[name] for name in ("emm", "curves")} | {"quality": self.study / "quality.csv"}
            about = {"study": self.description(), "style": '{"dpi": 50}', "folder": self.study}
            return [module, *_flat(about | options)]
        if stage in ("summary", "findings_table"):
            source = tables["emm" if stage == "summary" else "findings"]
            table = self.results / ("emm.csv" if stage == "summary" else "findings.csv")
            return [module, *_flat({"studies": source, "table": table, "page": table.with_suffix(".html")})]
        return [module, *_flat(self._options(stage))]  # type: ignore[arg-type]

    def _options(self, stage: Stage) -> dict[str, object]:
        setup = self.setup
        options: dict[str, object] = {"settings": json.dumps(stage_settings(stage, setup)), "key": key(stage, setup)}
        if stage == "emm":
            sizes = json.dumps(setup.search.grid)
            return options | {
                "sizes": sizes,
                "results": self.results,
                "output": self.record("emm"),
                "gallery": self.file("emm"),
            }
        if stage in ("quality", "denoising"):
            about = {"record": self.record("emm"), "results": self.results, "folder": self.folder(stage)}
            return options | about | ({"device": "cpu"} if stage == "denoising" else {})
        options |= {"n": self.n, "replicate": self.replicate}
        subset, snapshots, samples = self.file("subset"), self.file("train"), self.file("sample")
        if stage == "subset":
            return options | {"output": subset}
        options["subset"] = subset
        if stage == "train":
            log, state = self.file("train", "training.csv"), self.state
            outputs = {"snapshots": snapshots, "log": log, "record": self.record("train"), "state": state}
            return options | outputs | {"state-seconds": self.state_seconds, "device": "cpu"}
        if stage == "sample":
            if setup.diffusion.denoiser == "network":
                options["snapshots"] = snapshots
            return options | {
                "state": self.state,
                "output": samples,
                "record": self.record("sample"),
                "device": "cpu",
                "batch": 8,
            }
        outputs = {"neighbours": self.file("score"), "gallery": self.file("score", "gallery.npz")}
        records = (self.record("train"), self.record("sample"))
        return options | outputs | {"samples": samples, "records": records, "score": self.record("score")}

    def call(self, stage: str) -> int:
        """Run a stage in this process and return its exit status."""
        return call(*self.arguments(stage))

    def complete(self) -> "Pipeline":
        """Run all stages in this process."""
        for stage in STAGES:
            assert self.call(stage) == 0
        return self


def call(module: str, *arguments: str) -> int:
    """Run ``python -m module arguments`` in this process, as a program, and return its exit status."""
    main = importlib.import_module(module).main
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}  # training sets its own
    try:
        command(lambda: main(arguments))
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0


def _flat(options: dict[str, object]) -> list[str]:
    words: list[str] = []
    for name, value in options.items():
        values: Sequence[object] = value if isinstance(value, tuple) else (value,)
        words += [f"--{name}", *map(str, values)]
    return words
