"""One complete run of a tiny configuration, and copies of the finished project for every test."""

from pathlib import Path

import pytest

from project import Finished, Project, fresh


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One complete run of the tiny configuration.  Do not change it: take `copied`."""
    project = fresh(tmp_path_factory.mktemp("finished") / "project")
    first_plan = project.plan()
    assert not (project.folder / "results").exists()
    return Finished(project, project.snakemake().stdout, first_plan)


@pytest.fixture
def project(finished: Finished, tmp_path: Path) -> Project:
    """A copy of the finished project, to edit."""
    return finished.copied(tmp_path / "project")


@pytest.fixture
def empty(tmp_path: Path) -> Project:
    """The project without results."""
    return fresh(tmp_path / "project")
