"""The choice of the package that runs, and of the files that it reads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emmeter import project
from emmeter.settings import configuration

ROOT = Path(__file__).parents[1]
THEIRS = "import os, sys\nprint('theirs', *sys.argv[1:])\n"


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.delenv(project.VARIABLE, raising=False)


@pytest.fixture
def checkout(tmp_path):
    """Another project, with a package of this name."""
    root = tmp_path / "another $x é"
    (root / "workflow/emmeter").mkdir(parents=True)
    (root / "Snakefile").write_text("")
    (root / "workflow/emmeter/__init__.py").write_text("")
    (root / "workflow/emmeter/cli.py").write_text(THEIRS)
    return root


def run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | variables
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env=environment, capture_output=True, encoding="utf-8"
    )


def test_our_own_root():
    assert project.ROOT == ROOT
    assert project.others(ROOT) is None
    assert project.snakefile() == ROOT / "Snakefile"


def test_the_command_runs_the_package_of_the_project_that_it_is_called_in(checkout):
    done = run(checkout, "emmeter.cli", "check", "an overlay.yaml")
    assert (done.returncode, done.stdout, done.stderr) == (0, "theirs check an overlay.yaml\n", "")


def test_a_folder_that_is_no_project_changes_nothing(tmp_path):
    (tmp_path / "Snakefile").write_text("")
    assert project.others(tmp_path) is None
    (tmp_path / "emmeter").mkdir()
    (tmp_path / "emmeter/__init__.py").write_text("raise RuntimeError")
    assert project.others(tmp_path) is None


@pytest.mark.parametrize("module", ["emmeter.cli", "emmeter.stages.subset", "emmeter.pipeline.plan"])
def test_another_package_than_the_wanted_is_reported_in_one_line(checkout, tmp_path, module):
    options = ["check"] if module == "emmeter.cli" else []
    done = run(tmp_path, module, *options, **{project.VARIABLE: str(checkout)})
    assert (done.returncode, done.stdout) == (1, "")
    expected = (
        f"{ROOT / 'workflow/emmeter'}: is the package of another project; this one's is {checkout / 'workflow/emmeter'}"
    )
    assert done.stderr == f"error: {expected}\n"


def test_a_link_to_our_own_project_is_our_own(tmp_path):
    (tmp_path / "link").symlink_to(ROOT)
    assert project.others(tmp_path / "link") is None


def test_jobs_find_the_package_before_all_others(tmp_path, monkeypatch):
    for folder in (tmp_path / "path" / "emmeter", tmp_path / "here" / "emmeter"):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise RuntimeError('foreign')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    code = "import emmeter.project; print(emmeter.project.ROOT)"
    environment = os.environ | project.child_environment()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "here", env=environment, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == (f"{ROOT}\n", "")
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    assert project.child_environment()["PYTHONPATH"] == environment["PYTHONPATH"]  # once


def test_files_of_the_folder_worked_in_come_before_our_own(tmp_path):
    assert project.file(Path("config.yaml"), tmp_path) == ROOT / "config.yaml"
    assert project.file(Path("nowhere.yaml"), tmp_path) == tmp_path / "nowhere.yaml"
    (tmp_path / "config.yaml").write_text("")
    assert project.file(Path("config.yaml"), tmp_path) == tmp_path / "config.yaml"


def test_the_configuration_is_read_from_any_folder(tmp_path):
    shipped = configuration.load(folder=ROOT)
    assert configuration.load(folder=tmp_path) == shipped
    (tmp_path / "config.yaml").write_text("seed: 7\n")
    assert set(configuration.load(folder=tmp_path)) == {"studies", "seed"}
