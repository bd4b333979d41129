"""One complete run of a tiny configuration, copies of the finished project for every test, and the count of faults."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from emmeter import locks
from project import Finished, Plan, Project, fresh


@pytest.fixture(scope="session", autouse=True)
def no_packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled packages of the user must not decide which code the tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMM_PACKAGES", str(tmp_path_factory.mktemp("packages")))
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One complete run of the tiny configuration.  Tests must not change it; `project` is a copy.

    The processes of pytest-xdist share it: the first one that needs it makes it.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    project, told = Project(shared / "finished"), shared / "finished.json"
    with locks.held(shared / "finished.lock"):
        if not told.is_file():
            fresh(project.folder)
            plan = project.plan()
            assert not (project.folder / "results").exists()
            content = {"output": project.snakemake().stdout, "jobs": dict(plan.jobs), "plan": plan.output}
            told.write_text(json.dumps(content))
    content = json.loads(told.read_text())
    return Finished(project, content["output"], Plan(content["jobs"], content["plan"]))


@pytest.fixture
def project(finished: Finished, tmp_path: Path) -> Project:
    """A copy of the finished project, to edit."""
    return finished.copied(tmp_path / "project")


@pytest.fixture
def empty(tmp_path: Path) -> Project:
    """The project without results."""
    return fresh(tmp_path / "project")


@dataclass(frozen=True)
class Faults:
    """Numbers of faults that were tried and survived, by kind."""

    tried: Counter[str] = field(default_factory=Counter)
    survived: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def one(self, kind: str) -> Iterator[None]:
        """Count a fault inside the block, which is survived if the block with its assertions ends well."""
        self.tried[kind] += 1
        yield
        self.survived[kind] += 1


SLOW = ("exhaustive", "slurm")  # markers of tests that are slow as well
SLOW_FOLDERS = ("workflow", "faults")  # of tests that run Snakemake, or stages as processes; all faults are exhaustive


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all slow tests as such, so that `-m "not slow"` selects the fast ones."""
    for item in items:
        folder = item.path.parent.name
        if folder == "faults":
            item.add_marker(pytest.mark.exhaustive)
        if folder in SLOW_FOLDERS or any(map(item.get_closest_marker, SLOW)):
            item.add_marker(pytest.mark.slow)


FAULTS = pytest.StashKey[Faults]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FAULTS] = Faults()


@pytest.fixture(scope="session")
def faults(pytestconfig: pytest.Config) -> Faults:
    """Counts of this process; the sums over all processes are printed at the end."""
    return pytestconfig.stash[FAULTS]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the counts over to the main process, if this is one of several."""
    if hasattr(session.config, "workeroutput"):
        counts = session.config.stash[FAULTS]
        session.config.workeroutput["faults"] = dict(counts.tried), dict(counts.survived)


def pytest_testnodedown(node: Any) -> None:
    """Add the counts of a process that has ended."""
    tried, survived = getattr(node, "workeroutput", {}).get("faults", ({}, {}))
    node.config.stash[FAULTS].tried.update(tried)
    node.config.stash[FAULTS].survived.update(survived)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = config.stash[FAULTS]
    if counts.tried:
        terminalreporter.section("faults")
        width = max(map(len, counts.tried))
        for kind, tried in sorted(counts.tried.items()):
            terminalreporter.write_line(f"{kind:{width}}  {tried:4} tried  {counts.survived[kind]:4} survived")
        total, survived = counts.tried.total(), counts.survived.total()
        terminalreporter.write_line(f"{'all':{width}}  {total:4} tried  {survived:4} survived")
