"""Copies of the project with a tiny configuration of the real pipeline, and Snakemake run in them.

Jobs are few, because each of them starts Python and imports torch.  `Project.plan` (a dry run) shows the jobs that an
edit causes; tests run jobs only to observe their effects.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from emmeter.data import datasets
from emmeter.files import layout
from emmeter.settings import configuration, keys, sections

ROOT = Path(__file__).parents[1]
PARTS = ("Snakefile", "workflow", "profiles", "envs")
JOINED = ("summary", "findings_table", "published")  # rules that join the tables of the selected studies

# Networks this small and short memorize nothing, so their search ends below the smallest size after one run.  The
# optimum memorizes everything, so its search goes up to the largest.  The arms `none` and `network` are the same.
CONFIG: dict[str, Any] = {
    "name": "digits",
    "seed": 0,
    "data": {"source": "digits", "held_out": 16},
    "network": {"channels": 8, "multipliers": [1, 1], "blocks": 1, "attention": []},
    "diffusion": {"preconditioning": "edm"},
    "training": {
        "duration": "192 images",
        "batch_size": 32,
        "learning_rate": 1e-3,
        "lr_ramp": "10 %",
        "ema_decays": [0.9],
        "ema_ramp": "10 %",
        "snapshots": [0.5, 1.0],
    },
    "sampling": {"images": 12, "steps": 3},
    "search": {"n_min": 10, "n_max": 20, "start": 10, "steps_per_octave": 1, "confirm": 0},
    "execution": {"device": "cpu"},
    "figures": {"dpi": 50},
    "studies": {
        "labels": {
            "title": "Labels of the images",
            "source": "Figure 5",
            "factor": "data.labels",
            "arms": {"none": {"data.labels": "none"}, "random": {"data.labels": "random-2"}},
            "findings": {"claim": {"claim": "Labels matter", "expect": "more", "arms": ["random", "none"]}},
        },
        "denoiser": {
            "title": "Network and optimum",
            "factor": "diffusion.denoiser",
            "arms": {"network": {}, "optimum": {"diffusion.denoiser": "optimum"}},
            "findings": {"replay": {"claim": "It replays", "expect": "more", "arms": ["optimum", "network"]}},
        },
        "own": {
            "title": "Own images",
            "factor": "data.source",
            "arms": {
                "file": {
                    "data.source": "npz:own.npz",
                    "diffusion.denoiser": "optimum",
                    "search.rule": "grid",
                    "search.grid": [10],
                }
            },
        },
    },
}


@dataclass(frozen=True)
class Plan:
    """The jobs of a dry run by rule.  A job is named by its product: a run (KEY/nN/rR), an arm's key, or a study."""

    jobs: Mapping[str, list[str]]
    output: str

    @property
    def rules(self) -> set[str]:
        return set(self.jobs)

    def __getitem__(self, rule: str) -> list[str]:
        return self.jobs.get(rule, [])


@dataclass(frozen=True)
class Project:
    """A copy of the project."""

    folder: Path

    def config(self) -> dict[str, Any]:
        return yaml.safe_load((self.folder / "config.yaml").read_text())

    def configure(self, config: Mapping[str, Any], name: str = "config.yaml") -> None:
        (self.folder / name).write_text(yaml.safe_dump(dict(config), sort_keys=False))

    def change(self, path: Sequence[str] | str, value: object) -> None:
        """Change or add one key of config.yaml, given as ``"search.epsilon"`` or as a list of names."""
        config = self.config()
        node = config
        *above, last = path.split(".") if isinstance(path, str) else path
        for part in above:
            node = node.setdefault(part, {})
        node[last] = value
        self.configure(config)

    def snakemake(self, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Snakemake as a user would.  Its output, including stderr, is in ``stdout`` of the result."""
        done = subprocess.run(self.command(*arguments), **self.process(), stdout=subprocess.PIPE, timeout=300)
        assert not check or done.returncode == 0, done.stdout
        return done

    @staticmethod
    def command(*arguments: object) -> list[str]:
        return ["snakemake", *map(str, arguments)]

    def process(self) -> dict[str, Any]:
        """Keyword arguments of subprocess for a program inside the project."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return {
            "cwd": self.folder,
            "env": {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""},
            "stderr": subprocess.STDOUT,
            "text": True,
        }

    def plan(self, *arguments: object) -> Plan:
        """Plan the jobs of a dry run, read from their shell commands."""
        output = self.snakemake(*arguments, "--dry-run", "--printshellcmds", "--quiet", "host").stdout
        jobs: dict[str, list[str]] = {}
        for rule, rest in re.findall(r"python -m (?:emmeter\.machine\.warm )?emmeter\.stages\.(\w+) (.*)", output):
            product = (
                re.search(r"--(?:output|record|score) results/\w+/(\w+/n\d+/r\d+)/", rest)
                or re.search(r"--key (\w+)", rest)
                or re.search(r"--(?:emm|folder) results/digits/([^/\s]+)", rest)
            )
            page = re.search(r"--output results/[^/\s]+/(\w+)/report\.html", rest)
            if page:  # two rules call the stage `report`
                rule, product = "study_report", page
            jobs.setdefault(rule, []).append(product[1] if product else rule)
        table = re.search(r"Job stats:\njob +count\n[- ]+\n((?:\S+ +\d+\n)+)", output)
        counts = Counter({name: int(n) for name, n in re.findall(r"(\S+) +(\d+)\n", table[1])} if table else {})
        planned = {rule: n for rule, n in counts.items() if rule not in {"total", "all", *CONFIG["studies"]}}
        assert planned == {rule: len(made) for rule, made in jobs.items()}, output  # all commands were read
        return Plan(jobs, output)

    def key(self, stage: keys.Stage, study: str, arm: str) -> str:
        """The key of an arm of the present configuration."""
        arms = next(entry for entry in configuration.read(self.config()).studies if entry.name == study).arms
        return keys.key(stage, next(entry for entry in arms if entry.name == arm).setup)

    def run_file(self, stage: keys.Stage, study: str, arm: str, name: str, n: int = 10) -> Path:
        folder = layout.run_folder(self.folder / "results", stage, self.key(stage, study, arm), n, 0)
        return folder / name

    def emm_file(self, study: str, arm: str) -> Path:
        return self.folder / "results" / "emm" / self.key("emm", study, arm) / "emm.json"

    def times(self, folder: str = "results") -> dict[str, int]:
        """Time of change (ns) of every file below a folder."""
        root = self.folder / folder
        return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def write_images(path: Path, first: int = 0) -> None:
    """Write 100 digits and their labels, from number `first` on, as an .npz of own images."""
    digits = datasets.load(sections.Data(source="digits"))
    assert digits.labels is not None
    chosen = slice(first, first + 100)
    np.savez(path, images=digits.images[chosen], labels=digits.labels[chosen])


def fresh(folder: Path) -> Project:
    """Copy the project without results, with the tiny configuration."""
    folder.mkdir(parents=True)
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / part)
    write_images(folder / "own.npz")
    (folder / "config").mkdir()
    shutil.copy2(ROOT / "config" / "paper.yaml", folder / "config")
    (folder / "config" / "studies.yaml").write_text("{}\n")  # the paper's studies do not fit the tiny configuration
    project = Project(folder)
    project.configure(CONFIG)
    return project


@dataclass(frozen=True)
class Finished:
    """The project after its first complete run."""

    project: Project
    output: str
    first_plan: Plan

    def copied(self, folder: Path) -> Project:
        shutil.copytree(self.project.folder, folder)  # keeps times, as `cp -a`; .snakemake holds relative paths
        return Project(folder)
