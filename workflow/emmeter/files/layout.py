"""Where each stage's results are stored."""

import json
from pathlib import Path

from emmeter.files.writing import write_text
from emmeter.settings.keys import Stage

RUN_FOLDERS: dict[Stage, str] = {"subset": "subsets", "train": "runs", "sample": "samples", "score": "scores"}

# In each stage's folder, the record of what made it, and its other files.
RECORDS: dict[Stage, str] = {
    "subset": "subset.json", "train": "training.json", "sample": "sampling.json", "score": "score.json",
    "emm": "emm.json",
}  # fmt: skip
FILES: dict[Stage, tuple[str, ...]] = {
    "subset": ("subset.npz",),
    "train": ("snapshots.safetensors", "training.csv"),
    "sample": ("samples.npz",),
    "score": ("neighbours.npz", "gallery.npz"),
    "emm": ("gallery.npz",),
}


def run_folder(
    results: Path, stage: Stage, key: str | None = None, n: int | str = "{n}", replicate: int | str = "{r}"
) -> Path:
    """results/<stage>/<key>/n<N>/r<replicate>; wildcards where a part is not given."""
    return results / RUN_FOLDERS[stage] / (key or "{key}") / f"n{n}" / f"r{replicate}"


def emm_folder(results: Path, key: str | None = None) -> Path:
    """results/emm/<key>: the outcome of one search."""
    return results / "emm" / (key or "{key}")


SETTINGS = "settings.yaml"  # beside every output


def record_settings(folder: Path, text: str) -> Path:
    """Write the stage's settings beside its output, as readable YAML; return the file's path."""
    import yaml

    path = folder / SETTINGS
    write_text(path, yaml.safe_dump(json.loads(text), sort_keys=False))
    return path
