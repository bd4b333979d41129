"""The real configuration at every scale: the overlays are sound, and a dry run of all their studies is clean."""

import re
import shutil

import numpy as np
import pytest

from project import ROOT, fresh


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The project with its own configuration, and a stand-in for CIFAR-10 of which only the header is read."""
    project = fresh(tmp_path_factory.mktemp("scales") / "project")
    shutil.copytree(ROOT / "config", project.folder / "config", dirs_exist_ok=True)
    shutil.copy2(ROOT / "config.yaml", project.folder)
    labels = np.repeat(np.arange(10), 5000)
    np.savez_compressed(project.folder / "cifar.npz", images=np.zeros((50_000, 3, 32, 32), np.uint8), labels=labels)
    return project


@pytest.mark.exhaustive
@pytest.mark.parametrize(("scale", "studies"), [("laptop", 31), ("gpu", 29), ("paper", 18)])
def test_a_dry_run_of_every_study_is_clean(project, scale, studies):
    data = [] if scale == "laptop" else ["data={source: 'npz:cifar.npz'}"]
    output = project.snakemake(
        "--dry-run", "--quiet", "host", "--configfile", f"config/{scale}.yaml", *(["--config", *data] if data else [])
    ).stdout
    counts = {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE)}
    assert counts["study"] == counts["figures"] == studies
    assert counts["train"] > studies
    assert not (project.folder / "results").exists()


def test_a_study_without_its_data_is_refused_only_when_requested(project):
    overlay = ["--configfile", "config/gpu.yaml", "--config", "data={source: 'npz:cifar.npz'}"]
    assert project.snakemake("--dry-run", "conditioning", *overlay).returncode == 0
    done = project.snakemake("--dry-run", "intra_diversity", *overlay, check=False)
    assert done.returncode != 0
    lines = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert lines
    assert all("studies.intra_diversity.arms.alpha-" in line for line in lines)
    assert all("data.mixture" in line for line in lines)
    assert "Traceback" not in done.stdout


@pytest.mark.exhaustive
def test_the_plan_is_a_target(project):
    output = project.snakemake("plan", "--config", "sampling={images: 50}").stdout
    assert re.search(r"^22 runs: about [0-9.]+ (seconds|minutes|hours)$", output, re.MULTILINE)
    assert re.search(r"^conditioning +[0-9.]+ \w+ +4 +22 +0 +22 ", output, re.MULTILINE)
    assert "GFLOP/s in training" in output
    assert not (project.folder / "results").exists()
