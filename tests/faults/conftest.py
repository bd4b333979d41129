"""An undisturbed run for comparison, and the inputs of each stage."""

import os
import shutil

import pytest
from outcome import TABLES, outcome

from forked import start
from one_run import STAGES, Pipeline


@pytest.fixture(scope="session")
def clean(tmp_path_factory):
    """An undisturbed run made stage by stage: its pipeline, its files, and the seconds of each stage."""
    os.environ["OMP_NUM_THREADS"] = "1"  # the server and its children inherit it
    pipeline = Pipeline(tmp_path_factory.mktemp("clean") / "results")
    seconds = {}
    for stage in (*STAGES, *TABLES):
        ended = start(pipeline.results.parent / "log", pipeline.arguments(stage)).end()
        assert ended.status == 0, ended.output
        seconds[stage] = ended.seconds
    # The first process also started the server, so `subset` is timed again.
    pipeline_again = Pipeline(tmp_path_factory.mktemp("again") / "results")
    seconds["subset"] = start(pipeline_again.results.parent / "log", pipeline_again.arguments("subset")).end().seconds
    return pipeline, outcome(pipeline.results), seconds


@pytest.fixture
def before(clean, tmp_path):
    """Prepare the inputs of a stage: copies of the undisturbed results of all earlier stages."""

    def prepared(stage: str) -> Pipeline:
        pipeline = Pipeline(tmp_path / "results", state_seconds=0.02)
        order = (*STAGES, "study", "figures")
        for earlier in order[: order.index("figures" if stage in ("summary", "findings_table") else stage)]:
            folder = pipeline.study if earlier == "study" else pipeline.folder(earlier)  # type: ignore[arg-type]
            shutil.copytree(clean[0].results / folder.relative_to(pipeline.results), folder)
        return pipeline

    return prepared
