"""The workflow in folders of any name, called from other folders, beside packages of its name, in terminals of any
encoding, and with options that are too long for a command line."""

import json
import os
import re
import subprocess
from collections.abc import Mapping

import pytest

from project import Project, fresh

NAME = """we ird $HOME {y} {{z}} %d #h 'q' "dq" \\b `c` é & ;x [1]*?~=,@!^"""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(project: Project, *words: object, **changes: object) -> str:
    """Run Snakemake in a project, with changed keyword arguments of subprocess; variables of `env` are added."""
    process = project.process() | {"text": None} | changes
    added = changes.get("env")
    if isinstance(added, Mapping):
        process["env"] = project.process()["env"] | added
    done = subprocess.run(project.command(*words), **process, stdout=subprocess.PIPE, timeout=300)
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0, output
    assert "Traceback" not in output and "Logging error" not in output
    return output


def of_own(project: Project) -> Project:
    """The project with its smallest study selected."""
    project.change("run", ["own"])
    return project


def assert_made(output: str, folder) -> None:
    assert re.search(r"^own +file +(≥|>=) 10 ", output, re.MULTILINE), output
    assert (folder / "results/digits/own/gallery.png").is_file()
    page = (folder / "results/digits/report.html").read_text(encoding="utf-8")
    assert 'id="study-own"' in page
    left = list((folder / ".snakemake/emm").iterdir())  # the cache of images stays, files of options go
    assert left and all(path.suffix == ".json" for path in left)


def test_a_folder_of_any_name(tmp_path):
    project = of_own(fresh(tmp_path / NAME))
    strange = tmp_path / "temp $HOME {x} é"
    strange.mkdir()
    output = run(project, env={"TMPDIR": str(strange)})
    assert_made(output, project.folder)
    assert project.plan().jobs == {}


@pytest.mark.exhaustive
def test_options_too_long_for_a_command_line_go_by_file(tmp_path):
    """Half a megabyte of configuration is four times the limit of one argument."""
    project = of_own(fresh(tmp_path / "project"))
    config = project.config()
    arms = {f"arm-{i}": {"data.source": "npz:own.npz", "search.slope": 2 + i / 100} for i in range(5)}
    for i in range(60):
        config["studies"][f"study_{i}"] = {"title": "More. " * 1500, "factor": "data.source", "arms": arms}
    # A study of so many arms, all the same, that its description is too long for one argument.
    grid = {"data.source": "npz:own.npz", "diffusion.denoiser": "optimum", "search.rule": "grid", "search.grid": [10]}
    config["studies"]["many"] = {"arms": {f"arm-{i:03}": grid for i in range(400)}}
    project.configure(config)
    assert len(json.dumps(config)) > 500_000
    assert_made(run(project), project.folder)
    assert project.plan().jobs == {}
    table = "results/digits/many/emm.csv"
    run(project, table)
    assert (project.folder / table).read_text().count("\nmany,arm-") == 400
    assert project.plan(table).jobs == {}
    config["studies"]["many"]["title"] = "Many"  # a change of an option in a file is noticed
    project.configure(config)
    assert project.plan(table).rules == {"study"}


@pytest.mark.exhaustive
@pytest.mark.parametrize("own", [False, True], ids=["shipped configuration", "configuration of its own"])
def test_the_snakefile_of_another_folder(tmp_path, own):
    project = of_own(fresh(tmp_path / "project"))
    work = tmp_path / "work"
    work.mkdir()
    (project.folder / "own.npz").rename(work / "own.npz")
    (work / "emmeter").mkdir()
    (work / "emmeter" / "__init__.py").write_text("raise RuntimeError('foreign')")
    if own:
        content = (project.folder / "config.yaml").read_text().replace("dpi: 50", "dpi: 60")
        (work / "config.yaml").write_text(content)
    output = run(project, "--snakefile", "../project/Snakefile", cwd=work)
    assert_made(output, work)
    assert not (project.folder / "results").exists()
    assert f'"dpi":{60 if own else 50}' in run(
        project, "-s", "../project/Snakefile", "-np", "-f", "own", "-F", cwd=work
    )


@pytest.mark.exhaustive
def test_another_working_directory(tmp_path):
    project = of_own(fresh(tmp_path / "project"))
    (tmp_path / "other folder").mkdir()
    (project.folder / "own.npz").rename(tmp_path / "other folder" / "own.npz")
    assert_made(run(project, "--directory", "../other folder"), tmp_path / "other folder")
    assert not (project.folder / "results").exists()


@pytest.mark.exhaustive
@pytest.mark.parametrize("variables", [ASCII | {"PYTHONWARNINGS": "error"}, {"PYTHONIOENCODING": "latin-1"}])
def test_terminals_of_any_encoding_get_the_answer(finished, tmp_path, variables):
    """The folder's name, titles and claims have characters that these encodings lack."""
    project = finished.copied(tmp_path / "été ≥")
    project.change("studies.labels.title", "Étiquettes ≥ ×")
    project.change("studies.labels.findings.claim.claim", "Elles × comptent")
    output = run(project, env=variables)
    assert re.search(r"^denoiser +optimum +>= 20 ", output, re.MULTILINE), output
    assert re.search(r"^labels +Elles (x|\ufffd) comptent ", output, re.MULTILINE), output


FOREIGN = "raise RuntimeError('foreign')\n"


def test_packages_of_the_same_name_are_not_run(finished, tmp_path):
    project = finished.copied(tmp_path / "project")
    packages = [tmp_path / "path" / "emmeter", project.folder / "emmeter"]
    for package in packages:
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(FOREIGN)
    project.change("figures.dpi", 51)
    run(project, "own", env={"PYTHONPATH": str(tmp_path / "path")})


def test_a_package_that_came_first_is_reported_in_one_line(finished, tmp_path):
    project = finished.copied(tmp_path / "project")
    (tmp_path / "path" / "emmeter").mkdir(parents=True)
    (tmp_path / "path" / "emmeter" / "__init__.py").write_text("")
    (tmp_path / "path" / "sitecustomize.py").write_text("import emmeter\n")
    process = project.process()
    process["env"] |= {"PYTHONPATH": str(tmp_path / "path")}
    done = subprocess.run(project.command("own"), **process, stdout=subprocess.PIPE, timeout=300)
    assert done.returncode != 0
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert line == (
        f"error: {tmp_path}/path/emmeter/__init__.py: is not the workflow's own package, "
        f"{project.folder}/workflow/emmeter"
    )
    assert "Traceback" not in done.stdout


def test_another_python_on_the_path_does_not_run_the_jobs(finished, tmp_path):
    """This happens if another environment is active, and Snakemake is called by its path."""
    project = finished.copied(tmp_path / "project")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("#!/bin/sh\necho 'another Python'; exit 3\n")
    (tmp_path / "bin" / "python").chmod(0o755)
    project.change("figures.dpi", 51)
    path = os.pathsep.join([str(tmp_path / "bin"), project.process()["env"]["PATH"]])
    run(project, "own", env={"PATH": path})
