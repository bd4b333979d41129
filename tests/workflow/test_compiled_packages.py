"""Compiled packages in the workflow: who builds them, and that changing this reruns nothing."""

import json
import re
import shutil
from collections import Counter

import pytest

from project import Finished, Project


def asked(project: Project, *arguments: object) -> Counter[str]:
    """Values of `--compile` in the commands of a dry run, after the name of the stage."""
    output = project.snakemake(*arguments, "--dry-run", "--printshellcmds", "--quiet", "host").stdout
    return Counter(
        f"{stage} {when}"
        for stage, when in re.findall(r"emmeter\.stages\.(train|sample) .*? --compile (\w+)", output.replace("\n", " "))
    )


def test_jobs_build_packages_where_the_planned_work_pays(empty: Project):
    assert {name.split()[1] for name in asked(empty)} == {"auto"}
    empty.change("training.duration", "640000 images")  # 20,000 steps
    assert set(asked(empty)) == {"train build", "sample auto"}
    empty.change("execution.compile", "never")
    assert {name.split()[1] for name in asked(empty)} == {"never"}


def test_the_user_hears_of_a_missing_compiler_once(empty: Project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "C++ compiler" not in empty.plan().output
    empty.change("training.duration", "640000 images")
    assert empty.plan().output.count("note: this machine has no C++ compiler") == 1
    assert set(asked(empty)) == {"train auto", "sample auto"}


def test_another_choice_reruns_nothing(project: Project, finished: Finished):
    for when in ("always", "never"):
        project.change("execution.compile", when)
        assert project.plan().rules <= {"report"}  # it shows the configuration


@pytest.mark.exhaustive  # builds packages
def test_a_study_by_packages(empty: Project):
    if not shutil.which("g++"):
        pytest.skip("this machine has no C++ compiler")
    empty.change("execution.compile", "always")
    empty.snakemake("labels", "--cores", "2")
    records = sorted(empty.folder.glob("results/runs/*/*/*/training.json"))
    keys = {json.loads(path.read_text())["package"] for path in records}
    assert len(records) >= 2
    assert len(keys) == 1 and None not in keys  # one package for the unconditional and the conditional network
