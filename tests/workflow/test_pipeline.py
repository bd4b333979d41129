"""The whole pipeline on a tiny configuration: the results of one run, and the ways to request them."""

import csv
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from emmeter.files.tables import EMM_COLUMNS
from emmeter.stages.report import report
from project import JOINED

STUDIES = {"labels": ["none", "random"], "denoiser": ["network", "optimum"], "own": ["file"]}
FIGURES = ("curves", "emm", "gallery", "tradeoff")
TABLES = {
    "emm.csv", "curves.csv", "contrasts.csv", "findings.csv", "onset.csv", "budget.csv", "emm.html", "quality.csv",
    "copied.csv", "tradeoff.csv", "criteria.csv",
}  # fmt: skip


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# ---- before anything exists


def test_a_dry_run_without_results_is_clean_and_writes_nothing(finished):
    plan = finished.first_plan  # the fixture checks that the dry run succeeds and writes nothing
    assert plan.rules == {
        "subset", "train", "sample", "score", "emm", "quality", "quality_table", "tradeoff", "criteria_table", "study",
        "figures", *JOINED, "report",
    }  # fmt: skip
    assert "Traceback" not in plan.output
    assert "marked for report" not in plan.output


def test_arms_that_share_settings_share_runs(finished):
    # labels/none is denoiser/network: four arms on digits, but two trainings, two subsets and three samples.
    plan, project = finished.first_plan, finished.project
    same = project.key("train", "labels", "none")
    assert same == project.key("train", "denoiser", "network")
    assert sorted(plan["train"]) == sorted(f"{key}/n10/r0" for key in (same, project.key("train", "labels", "random")))
    assert len(plan["subset"]) == 3
    assert len(plan["sample"]) == len(plan["score"]) == len(plan["emm"]) == 4
    done = [
        str(path.relative_to(project.folder / "results/runs")) for path in project.folder.glob("results/runs/*/*/*")
    ]
    assert sorted(done) == sorted(plan["train"])  # nor did a later round ask for more


def test_a_study_is_a_target(empty):
    plan = empty.plan("own")
    assert {rule: len(jobs) for rule, jobs in plan.jobs.items()} == {
        "subset": 1, "sample": 1, "score": 1, "emm": 1, "quality": 1, "quality_table": 1, "tradeoff": 1,
        "criteria_table": 1, "study": 1,
        "figures": 1, "study_report": 1,
    }  # fmt: skip
    assert plan["study"] == plan["figures"] == ["own"]


def test_run_selects_the_studies_of_the_default_target(empty):
    empty.change("run", ["own"])
    plan = empty.plan()
    assert plan["study"] == ["own"]
    assert {*JOINED, "report"} <= plan.rules
    assert "train" not in plan.rules


# ---- configuration on the command line


def test_single_values_come_from_config_options(finished):
    project = finished.project
    assert finished.project.plan("--config", "search={epsilon: 0.2}").rules == {
        "emm", "quality", "quality_table", "tradeoff", "criteria_table", "study", "figures", *JOINED, "report",
    }  # fmt: skip
    plan = project.plan("own", "--config", "seed=3", "sampling={images: 24, steps: 4}")
    assert plan["study"] == ["own"]
    assert len(plan["subset"]) == len(plan["sample"]) == 1


def test_booleans_inside_config_options_are_read(finished):
    # Snakemake passes every value inside braces as text.
    plan = finished.project.plan("own", "--config", "scoring={distinct: false}")
    assert plan.rules == {
        "score",
        "emm",
        "quality",
        "quality_table",
        "tradeoff",
        "criteria_table",
        "study",
        "figures",
        "study_report",
    }


def test_fractions_of_a_second_reach_the_training(empty):
    # Snakemake cuts numbers among resources to integers.
    plan = empty.plan("labels", "--config", "execution={state_seconds: 0.5}")
    assert len(plan["train"]) == 2
    assert plan.output.count("--state-seconds 0.5 ") == 2


def test_overlays_are_merged_deeply(project):
    project.configure({"scoring": {"distinct": False}, "studies": {"own": {"title": "Mine"}}}, "overlay.yaml")
    plan = project.plan("own", "--configfile", "overlay.yaml")
    assert plan.rules == {
        "score",
        "emm",
        "quality",
        "quality_table",
        "tradeoff",
        "criteria_table",
        "study",
        "figures",
        "study_report",
    }
    assert "'Mine'" in plan.output or '"Mine"' in plan.output
    assert "training.duration" not in plan.output  # the rest of the study is still there, and is no override


def test_overlays_keep_the_order_of_studies_and_arms(project):
    # The first arm is the baseline of the contrasts.
    project.configure({"studies": {"labels": {"arms": {"unique": {"data.labels": "unique"}}}}}, "overlay.yaml")
    plan = project.plan("--configfile", "overlay.yaml")
    described = next(json.loads(text) for text in re.findall(r"--study '(.*?)'", plan.output) if '"unique"' in text)
    assert [arm["name"] for arm in described["arms"]] == ["none", "random", "unique"]
    studies = re.search(r"emmeter\.stages\.summary --studies (.*?) --table", plan.output)
    assert studies is not None
    assert re.findall(r"digits/(\w+)/", studies[1]) == list(STUDIES)


# ---- what a run prints at its end


def test_a_run_of_one_study_prints_its_table_alone(project):
    output = project.snakemake("own", "--config", "figures={width: 8}").stdout  # the tables of others are there too
    (table,) = re.findall(r"^study +arm .*\n((?:\S+ .*\n)+)", output, re.MULTILINE)
    assert [line.split()[:2] for line in table.splitlines()] == [["own", "file"]]
    assert "verdict" not in output  # it makes no claim
    assert "figures  results/digits/own/*.svg" in output
    whole = project.snakemake("--config", "figures={width: 9}").stdout
    (table, claims) = re.findall(r"^study +(?:arm|claim) .*\n((?:\S+ .*\n)+)", whole, re.MULTILINE)
    assert [line.split()[0] for line in table.splitlines()] == ["labels", "labels", "denoiser", "denoiser", "own"]
    assert [line.split()[0] for line in claims.splitlines()] == ["labels", "denoiser"]
    assert re.findall(r"^report   (\S.*)", whole, re.MULTILINE) == ["results/digits/report.html"]
    assert re.findall(r"^report   (\S.*)", output, re.MULTILINE) == ["results/digits/own/report.html"]
    assert "not updated: results/digits/report.html (`snakemake report` does)" in output


@pytest.mark.exhaustive
def test_a_run_without_studies_prints_no_table(empty):
    output = empty.snakemake("plan").stdout
    assert "error" not in output
    assert "figures" not in output.split("Complete log")[0].splitlines()[-1]


def test_snakemake_called_by_its_path_starts_jobs_with_the_python_beside_it(empty):
    subset = empty.run_file("subset", "labels", "none", "subset.npz").relative_to(empty.folder)
    process = empty.process()
    beside = str(Path(sys.executable).parent)
    others = [folder for folder in process["env"]["PATH"].split(os.pathsep) if folder != beside]
    process["env"]["PATH"] = os.pathsep.join(others)  # as in a shell that has not activated the environment
    done = subprocess.run([f"{beside}/snakemake", str(subset)], **process, stdout=subprocess.PIPE, timeout=300)
    assert done.returncode == 0, done.stdout
    assert (empty.folder / subset).is_file()


# ---- what a run leaves behind


def test_logs_say_what_was_done_for_which_arm(finished):
    project = finished.project
    for stage, begin, outcome in (
        ("train", r"train: 192 images, batch 32, .*device cpu, 1 threads, key \w{10}", r"192 images, \d+ images/s"),
        ("sample", r"sample: 12 images per snapshot, 3 steps, .*device cpu", r"24 images from 2 snapshots"),
        ("score", r"score: nearest of 10 training images, threshold 0\.333", r"[\d.]+ % copies \(\d+ of 12\)"),
    ):
        log = project.folder / "logs" / stage / project.key(stage, "labels", "random") / "n10-r0.log"
        lines = log.read_text().splitlines()
        assert lines[0] == "labels/random: N = 10, replicate 0", lines
        assert re.match(begin, lines[1]), lines
        assert re.fullmatch(rf"end: {outcome}.*, after [\d.]+ s", lines[-1]), lines
    subset = next((project.folder / "logs/subset").glob("*/n10-r0.log")).read_text()
    assert "end: 10 images of 1x8x8 drawn from 1797, after " in subset
    key = project.key("emm", "denoiser", "optimum")
    assert "end: EMM ≥ 20 from the " in (project.folder / f"logs/emm/{key}.log").read_text()


def test_nothing_remains_of_states_and_temporary_files(finished):
    folder = finished.project.folder
    assert not (folder / "results/state").exists()
    assert [path.name for path in folder.glob("results/**/.*")] == []
    top = {path.name for path in folder.iterdir()}
    assert top - {"Snakefile", "workflow", "profiles", "envs", "config", "config.yaml", "own.npz"} == {
        "results",
        "logs",
        ".snakemake",
    }


def test_searches_find_their_own_sizes(finished):
    project = finished.project

    def sizes(study, arm):
        record = json.loads(project.emm_file(study, arm).read_text())
        return record["status"], [run["n"] for run in record["runs"]], {run["role"] for run in record["runs"]}

    assert sizes("labels", "none") == ("below", [10], {"locate"})
    assert sizes("denoiser", "optimum") == ("above", [10, 20], {"locate"})
    assert sizes("own", "file") == ("above", [10], {"grid"})


def test_summary_table(finished):
    results = finished.project.folder / "results/digits"
    with open(results / "emm.csv", newline="") as file:
        assert tuple(next(csv.reader(file))) == EMM_COLUMNS
    rows = table(results / "emm.csv")
    assert [(row["study"], row["arm"]) for row in rows] == [(s, arm) for s, arms in STUDIES.items() for arm in arms]
    by_arm = {row["arm"]: row for row in rows}
    none, optimum, own = by_arm["none"], by_arm["optimum"], by_arm["file"]
    assert (none["status"], none["emm"], none["emm_high"], none["value"]) == ("undetermined", "", "", "none")
    assert "farther from the training images than held-out images" in none["note"]  # trained on 192 images only
    assert (optimum["status"], optimum["emm_low"], optimum["value"]) == ("at_least", "20", "optimum")
    assert (own["rule"], own["status"], own["value"]) == ("grid", "at_least", "npz:own.npz")
    assert (none["epsilon"], float(none["threshold"])) == ("0.1", pytest.approx(1 / 3, abs=1e-6))
    assert [by_arm[arm]["runs"] for arm in ("none", "optimum", "file")] == ["1", "2", "1"]
    assert [by_arm[arm]["images_trained"] for arm in ("none", "optimum", "file")] == ["192", "0", "0"]
    assert all(float(row["seconds"]) > 0 for row in rows)
    assert {
        key: value for key, value in by_arm["network"].items() if key not in ("study", "arm", "factor", "value")
    } == {key: value for key, value in none.items() if key not in ("study", "arm", "factor", "value")}


@pytest.mark.parametrize("study", STUDIES)
def test_tables_and_figures_of_every_study(finished, study):
    folder = finished.project.folder / "results/digits" / study
    names = {f"{figure}.{kind}" for figure in FIGURES for kind in ("svg", "png")}
    assert {path.name for path in folder.iterdir()} == names | TABLES
    arms = STUDIES[study]
    assert [row["arm"] for row in table(folder / "emm.csv")] == arms
    assert [row["arm"] for row in table(folder / "contrasts.csv")] == arms[1:]
    assert {row["baseline"] for row in table(folder / "contrasts.csv")} == set(arms[:1] if arms[1:] else [])
    curves = table(folder / "curves.csv")
    # A trained run has one row per snapshot.  The optimum has no training, so its run has one row.
    runs = {"none": 2, "random": 2, "network": 2, "optimum": 2, "file": 1}
    assert {arm: sum(row["arm"] == arm for row in curves) for arm in arms} == {arm: runs[arm] for arm in arms}
    for kind, start in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        assert all((folder / f"{figure}.{kind}").read_bytes().startswith(start) for figure in FIGURES)


def test_every_run_says_what_made_it(finished):
    project = finished.project
    for path in project.folder.glob("results/*/*/n*/r*"):
        assert (path / "settings.yaml").read_text().startswith("data:"), path
    score = json.loads(project.run_file("score", "labels", "random", "score.json").read_text())
    assert score["key"] == project.key("score", "labels", "random")
    assert {"versions", "commit", "hardware", "seconds"} <= score.keys()
    assert score["cost"]["images_trained"] == 192
    assert [row["images_seen"] for row in score["snapshots"]] == [96, 192]
    with np.load(project.run_file("sample", "labels", "random", "samples.npz")) as samples:
        assert samples["images"].shape == (2, 12, 1, 8, 8)
        assert samples["images"].dtype == np.uint8


def test_the_answer_is_printed_at_the_end(finished):
    tail = finished.output[finished.output.index("of") :]
    for study, arms in STUDIES.items():
        for arm in arms:
            assert re.search(rf"^{study} +{arm} ", tail, re.M), tail
    assert re.search(r"^denoiser +optimum +≥ 20 ", tail, re.M)
    assert re.search(r"^labels +none +not determined ", tail, re.M)
    assert "results/digits/report.html" in tail


class Resources(HTMLParser):
    """Addresses that a browser would load by itself when it opens the page."""

    def __init__(self):
        super().__init__()
        self.addresses: list[str | None] = []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "embed", "audio"):
            self.addresses.append(attributes.get("src"))
        if tag == "link":
            self.addresses.append(attributes.get("href"))


def loaded(page: str) -> list[str]:
    """Addresses that a browser would load, apart from those that hold their content."""
    resources = Resources()
    resources.feed(page)
    return [address for address in resources.addresses if address and not address.startswith("data:")]


def test_the_page_is_self_contained_and_complete(finished):
    page = (finished.project.folder / "results/digits/report.html").read_text()
    assert loaded(page) == []
    for study, arms in STUDIES.items():
        assert f'id="study-{study}"' in page
        assert all(f"<b>{arm}</b><br>N = " in page for arm in arms)  # in the gallery
        assert all(f'download="{study}-{name}.csv"' in page for name in ("emm", "curves"))
    assert "uv run snakemake" in page
    assert 'download="configuration.yaml"' in page
    assert "Optical Recognition of Handwritten Digits" in page and "CC BY 4.0" in page
    assert "faiss" in page and "emmeter 0.1.0" in page
    assert "The records of the runs" not in page


def test_the_page_counts_runs_that_arms_share_once(finished):
    page = (finished.project.folder / "results/digits/report.html").read_text()
    cells = re.search(r"All, each run once</th>(.*?)</tr>", page)[1]
    assert re.findall(r">([\d,.]*)</td>", cells)[:3] == ["", "5", "384"]  # of 6 runs and 576 images in the rows above


def test_results_of_an_earlier_version_give_a_page(project):
    for path in project.folder.glob("results/emm/*/emm.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({name: value for name, value in record.items() if name != "keys"}))
        (path.parent / "SHA256SUMS").unlink()
        (path.parent / "gallery.npz").write_bytes(b"of another version")
    page = project.folder / "results/digits/page.html"
    studies = [{"name": name, "title": name, "source": "", "factor": ""} for name in STUDIES]
    report(studies, page.parent, page, results=project.folder / "results")
    assert all(f'id="study-{name}"' in page.read_text() for name in STUDIES)


def test_snakemakes_own_report_is_made_on_request(project):
    project.snakemake("workflow_report")
    page = (project.folder / "results/digits/workflow.html").read_text()
    assert loaded(page) == []
    assert not re.search(r"@import|url\(['\"]?https?:", page)
    for study in STUDIES:
        assert f'"{study}"' in page
        for name in (*(f"{figure}.svg" for figure in FIGURES), "emm.html", "curves.csv"):
            assert f"results/digits/{study}/{name}" in page
    for caption in (
        "Memorization ratio against the number of training images",  # curves.rst
        "their nearest training images",  # gallery.rst
        "Effective model memorization (EMM) is the largest number",  # workflow.rst
    ):
        assert caption in page
    assert "results/digits/emm.html" in page


# ---- guards


def test_an_unfinished_search_makes_no_record(finished, tmp_path):
    project = finished.project
    record = json.loads(project.emm_file("denoiser", "optimum").read_text())
    plan = project.plan("denoiser", "--config", "search={epsilon: 0.2}")
    text = next(
        text for text in re.findall(r"emmeter\.stages\.emm --settings '(.*?)'", plan.output) if '"optimum"' in text
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "emmeter.stages.emm", "--settings", text, "--sizes", json.dumps(record["sizes"])),
            *("--results", tmp_path / "nothing", "--output", tmp_path / "emm.json", "--gallery", tmp_path / "g.npz"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: the search is not finished: N = 10, replicate 0 has no score"
    assert list(tmp_path.iterdir()) == []


def test_findings_are_a_target_that_always_prints(project):
    output = project.snakemake("findings").stdout
    assert re.search(r"^denoiser +It replays +not resolved ", output, re.MULTILINE)
    assert re.search(r"^labels +Labels matter +not resolved ", output, re.MULTILINE)
    assert "0 reproduced, 0 differ at this scale, 2 not resolved" in output
    rows = {row["finding"]: row for row in table(project.folder / "results/digits/findings.csv")}
    assert rows["replay"]["verdict"] == "not resolved"  # a network that has not been trained decides nothing
    assert "mend the model, or train longer" in rows["replay"]["note"]
