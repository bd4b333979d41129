"""The study of the page on embeddings: its code writes the file, its overlay runs, an edit of the file is noticed."""

import csv
import re
import subprocess
import sys

import numpy as np
import pytest

from project import ROOT, Project


@pytest.mark.exhaustive
def test_the_study_of_the_page_runs_and_follows_the_content_of_the_file(empty: Project):
    page = (ROOT / "docs/embeddings.md").read_text()
    (code,), (overlay,) = (
        re.findall(rf"^```{kind}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL) for kind in ("python", "yaml")
    )
    subprocess.run([sys.executable, "-c", code], check=True, **empty.process())
    (empty.folder / "embeddings.yaml").write_text(overlay + "quality: {enabled: false}\nsampling: {steps: 2}\n")
    options = ("--configfile", "embeddings.yaml")
    empty.snakemake("embeddings", *options)
    with open(empty.folder / "results/digits/embeddings/emm.csv", newline="") as file:
        assert [row["arm"] for row in csv.DictReader(file)] == ["none", "fixed", "class", "image", "shuffled"]
    assert not empty.plan("embeddings", *options).jobs
    with np.load(empty.folder / "rows.npz") as file:
        values = file["embeddings"]
    np.savez_compressed(empty.folder / "rows.npz", embeddings=values)
    assert not empty.plan("embeddings", *options).jobs
    np.savez(empty.folder / "rows.npz", embeddings=values[::-1])
    again = empty.snakemake("embeddings", *options, "--dry-run", "--quiet", "rules").stdout
    jobs = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", again, re.MULTILINE)}
    assert jobs["subset"] == jobs["train"] >= 4
    assert "Params have changed since last execution" in again or "params have changed" in again
