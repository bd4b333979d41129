"""The emm commands on a small finished project: what they print, and what they delete."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emmeter.commands.cleaning import clean, keys_in_use, unused
from emmeter.files.layout import EXPERIMENT
from project import ROOT, Finished, Project


@pytest.fixture
def folder(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a finished project, in which the commands are called."""
    copy = finished.copied(tmp_path / "project")
    monkeypatch.chdir(copy.folder)
    return copy.folder


def emm(*arguments: object, status: int = 0) -> str:
    """What a command prints in the working directory, errors included."""
    command = [sys.executable, "-m", "emmeter.cli", *map(str, arguments)]
    done = subprocess.run(command, **(Project(Path.cwd()).process() | {"stdout": subprocess.PIPE}))
    assert done.returncode == status, done.stdout
    return done.stdout


def test_version_names_the_package(folder):
    assert re.match(r"emmeter \S+", emm("--version"))


def test_list_counts_finished_runs(folder):
    output = emm("list")
    row = next(line for line in output.splitlines() if line.startswith("labels"))
    done, about, images = row.split()[-3:]
    assert int(done) == int(about) > 0 and images == "0"
    assert "labels *" in output and "snakemake STUDY" in output


def test_show_lists_arms_then_settings_runs_and_folders(folder):
    study = emm("show", "labels")
    assert "data.labels: random-2" in study and "finished" in study
    arm = emm("show", "labels/random")
    assert re.search(r"data.labels +random-2 +<- differs", arm)
    runs = re.search(r"N +replicate.*\n((?: *\d+ .*\n)+)", arm)
    assert runs is not None
    n, replicate = runs[1].splitlines()[0].split()[:2]
    for stage in ("subset", "train", "sample", "score"):
        found = re.search(rf"^{stage} +(\S+)$", arm, re.MULTILINE)
        assert found is not None
        assert Path(found[1].replace("<N>", n).replace("<r>", replicate)).is_dir()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["show", "label"], "error: label: is not a study; did you mean 'labels'?"),
        (["show", "labels/rand"], "error: labels/rand: is not an arm of the study; did you mean 'random'?"),
        (["rescore", "width"], "error: width: is not a study; "),
        (["summary", "--name", "gone"], "error: results/gone: holds no table yet; run snakemake first"),
        (["list", "--configfile", "gone.yaml"], "error: gone.yaml: cannot be read"),
    ],
)
def test_names_that_do_not_exist(folder, arguments, line):
    assert emm(*arguments, status=1).startswith(line)


def test_rescore_gives_each_arm_an_answer_per_threshold(folder):
    output = emm("rescore", "labels", "--threshold", "0.01", "0.99")
    rows = [line.split() for line in output.splitlines() if re.match(r"\w+ +0\.(01|99) ", line)]
    arms = {row[0] for row in rows}
    assert len(rows) == 2 * len(arms) > 0
    ratios = {(row[0], row[1]): float(row[-1]) for row in rows}
    assert all(ratios[arm, "0.01"] <= ratios[arm, "0.99"] for arm in arms)


def test_rescore_needs_a_finished_study(folder):
    shutil.rmtree(folder / "results" / "emm")
    assert "its search has not finished; run `snakemake labels`" in emm("rescore", "labels", status=1)


def test_the_summary_marks_rows_of_other_settings(folder):
    assert " *" not in emm("summary", "labels").partition("odds")[0]
    (folder / "over.yaml").write_text("training: {duration: 320 images}\n")
    marked = emm("summary", "labels", "--configfile", "over.yaml")
    assert "random *" in marked and "would not make this row" in marked


def test_the_summary_is_of_the_experiment_of_the_configuration(folder):
    (folder / "over.yaml").write_text("name: other\n")
    output = emm("summary", "--configfile", "over.yaml", status=1)
    assert "results/other: holds no table yet" in output and "digits" in output
    assert "labels" in emm("summary", "--name", "digits", "--configfile", "over.yaml")


def test_the_record_of_the_experiment_stands_beside_its_tables(folder):
    content = json.loads((folder / "results/digits" / EXPERIMENT).read_text())
    assert content["data.source"] == "digits" and content["search.epsilon"] == 0.1


def test_clean_deletes_what_no_configuration_has(folder, capsys, monkeypatch):
    assert "every folder is needed" in emm("clean")
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(
        text + "seed: 7\n" if "seed:" not in text else text.replace("seed: 0", "seed: 7")
    )
    listed = emm("clean")
    assert "emm clean --yes" in listed
    before = sum(1 for path in (folder / "results").rglob("*") if path.is_file())
    assert sum(1 for path in (folder / "results").rglob("*") if path.is_file()) == before
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda _: True})())
    monkeypatch.setattr("builtins.input", lambda _: "n")
    clean(Path("results"))
    assert "nothing was deleted" in capsys.readouterr().out
    assert sum(1 for path in (folder / "results").rglob("*") if path.is_file()) == before
    assert "deleted" in emm("clean", "--yes")
    assert unused(folder / "results", keys_in_use(folder / "results")[0]) == []
    assert not list((folder / "results/runs").glob("*"))
    assert (folder / "results/digits/emm.csv").is_file()  # tables are never deleted


def test_clean_keeps_the_runs_of_overlays(folder):
    (folder / "config").mkdir(exist_ok=True)
    (folder / "config" / "mine.yaml").write_text((folder / "config.yaml").read_text())
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("seed: 0", "seed: 7"))
    assert "every folder is needed" in emm("clean")


def test_clean_keeps_the_runs_of_experiments_whose_configuration_is_elsewhere(folder):
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(
        "name: another\n" + text.replace("name: digits\n", "").replace("seed: 0", "seed: 7")
    )
    listed = emm("clean")
    assert "note: results/digits: its configuration is not here; its runs are kept until you delete" in listed
    assert "every folder is needed" in listed
    shutil.rmtree(folder / "results/digits")
    assert "emm clean --yes" in emm("clean")


def pictures(path: Path, count: int, classes: int = 1) -> Path:
    """Colour images of 12x12 pixels in one folder, or in one folder per class."""
    rng = np.random.default_rng(0)
    for i in range(count):
        own = path / str(i % classes) if classes > 1 else path
        own.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).save(own / f"{i}.png")
    return path


@pytest.mark.parametrize("classes", [1, 3])
def test_init_writes_an_overlay_that_passes_the_check(folder, classes):
    shutil.copytree(ROOT / "config", folder / "config", dirs_exist_ok=True)
    photos = pictures(folder / "My photos", 60, classes)
    output = emm("init", photos.name)
    assert "My-photos.yaml: written, for 60 images" in output
    assert "ok: 1 study" in emm("check", "--configfile", "My-photos.yaml")
    assert "results/My-photos/" in emm("check", "--configfile", "My-photos.yaml")
    written = (folder / "My-photos.yaml").read_text()
    assert ("true-labels" in written) == (classes == 1)
    assert "exists already" in emm("init", photos.name, status=1)


def test_init_refuses_too_few_images(folder):
    pictures(folder / "few", 5)
    assert "few: holds 5 images; a search needs 25 or more" in emm("init", "few", status=1)
    assert not (folder / "few.yaml").exists()


def test_status_of_a_finished_project(folder):
    output = emm("status", "labels", "own")
    rows = {line.split()[0]: line.split()[1:] for line in output.splitlines() if re.match(r"(labels|own|all) ", line)}
    assert set(rows) == {"labels", "own", "all"}
    assert all(int(done) == int(about) > 0 and left == "none" for done, about, left in rows.values())
    assert "results/digits: no workflow runs here" in output and "`emm summary` prints finished tables" in output


def test_status_names_running_and_failed_jobs(folder):
    for stage in ("scores", "samples", "runs"):
        shutil.rmtree(folder / "results" / stage)
    key = Project(folder).key("train", "labels", "random")
    log = folder / "logs/train" / key / "n10-r0.log"
    log.write_text(
        "labels/random: N = 10, replicate 0\ntrain: 192 images\n96/192 images, 9 images/s, 12 s left, loss 1\n"
    )
    output = emm("status", "labels")
    assert "1 job running" in output
    assert "  labels/random  train, N = 10, replicate 0: 50 %, less than a minute left" in output
    assert re.search(r"^labels +0 +\d+ +not known yet$", output, re.MULTILINE)
    log.write_text("labels/random: N = 10, replicate 0\nerror: the disk is full\n")
    output = emm("status", "labels")
    assert "no workflow runs here" in output and "the same snakemake command continues" in output
    assert f"replicate 0, log logs/train/{key}/n10-r0.log\n    error: the disk is full" in output
    (folder / ".snakemake/locks").mkdir(exist_ok=True)
    (folder / ".snakemake/locks/0.input.lock").write_text("")
    assert "snakemake --unlock" in emm("status")


def test_status_of_an_unknown_study_suggests_one(folder):
    assert emm("status", "label", status=1).startswith("error: label: is not a study; did you mean 'labels'?")
