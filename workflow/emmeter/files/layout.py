"""Folders and names of the files that each stage writes."""

import json
from pathlib import Path

from emmeter.files.writing import write_text
from emmeter.settings.keys import Stage, stage_settings
from emmeter.settings.sections import Setup

RUN_FOLDERS: dict[Stage, str] = {"subset": "subsets", "train": "runs", "sample": "samples", "score": "scores"}
ARM_STAGES: tuple[Stage, ...] = ("emm", "quality", "denoising")  # one folder per arm, which has the stage's name

# Each stage's folder holds the record of what made it, and these other files.
RECORDS: dict[Stage, str] = {
    "subset": "subset.json", "train": "training.json", "sample": "sampling.json", "score": "score.json",
    "emm": "emm.json", "quality": "quality.json", "denoising": "denoising.json",
}  # fmt: skip
FILES: dict[Stage, tuple[str, ...]] = {
    "subset": ("subset.npz",),
    "train": ("snapshots.safetensors", "training.csv"),
    "sample": ("samples.npz",),
    "score": ("neighbours.npz", "gallery.npz"),
    "emm": ("gallery.npz",),
    "quality": ("quality.csv", "copied.csv", "copied_images.csv", "criteria.csv"),
    "denoising": ("denoising.csv",),
}
EXPERIMENT = "experiment.json"  # beside the tables of an experiment: what all its EMMs have in common
SETTINGS = "settings.yaml"  # in every stage's folder
CACHE = Path(".snakemake", "emm")  # beside the results: what was read of own images, and long options of jobs


def run_folder(
    results: Path, stage: Stage, key: str | None = None, n: int | str = "{n}", replicate: int | str = "{r}"
) -> Path:
    """Folder of one stage of one run: <results>/<stage's folder>/<key>/n<N>/r<replicate>.

    Parts that are not given become Snakemake's wildcards.
    """
    return results / RUN_FOLDERS[stage] / (key or "{key}") / f"n{n}" / f"r{replicate}"


def state_folder(results: Path, key: str, n: int | str, replicate: int | str) -> Path:
    """Folder from which a killed run resumes: <results>/state/<key>/n<N>-r<replicate>.

    The key is that of `train` for networks, and that of `sample` for a command of the user's.
    """
    return results / "state" / key / f"n{n}-r{replicate}"


def arm_folder(results: Path, stage: Stage, key: str | None = None) -> Path:
    """Folder of a stage of `ARM_STAGES` of one arm: <results>/<stage>/<key>, with a wildcard if no key is given."""
    return results / stage / (key or "{key}")


def record_settings(folder: Path, stage: Stage, setup: Setup) -> Path:
    """Write the settings that determine a stage's output into its folder, as readable YAML.

    Returns:
        Path of the written file.
    Raises:
        OSError: the file cannot be written.
    """
    import yaml

    path = folder / SETTINGS
    # By way of JSON no object occurs twice, for which YAML would write references.
    plain = json.loads(json.dumps(stage_settings(stage, setup), sort_keys=True))
    write_text(path, yaml.safe_dump(plain, sort_keys=False))
    return path
