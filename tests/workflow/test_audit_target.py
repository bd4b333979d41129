"""Audits as targets of the workflow: by name, in shards, of which none is made twice."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from project import ROOT


def test_an_audit_is_a_target_whose_finished_shards_survive(project):
    shutil.copytree(ROOT / "examples/audit", project.folder / "images")
    pair = {"generated": "images/copies.npz", "train": "images/train.npz", "held_out": "images/held_out.npz"}
    project.change("audits", {"digits_copied": {**pair, "shards": 3}})
    shards = project.folder / "results/audits/digits_copied/shards"
    project.snakemake(*(f"results/audits/digits_copied/shards/{number}-of-3.npz" for number in (0, 2)))
    times = {path.name: path.stat().st_mtime_ns for path in shards.iterdir() if path.suffix == ".npz"}
    assert sorted(times) == ["0-of-3.npz", "2-of-3.npz"]
    project.snakemake("digits_copied")
    assert times == {name: (shards / name).stat().st_mtime_ns for name in times}
    command = [sys.executable, "-m", "emmeter.cli", "audit", pair["generated"], "--train", pair["train"]]
    done = subprocess.run([*command, "--held-out", pair["held_out"], "-o", "whole"], **project.process())
    assert done.returncode == 1
    for name in os.listdir(project.folder / "whole"):
        ours = project.folder / "results/audits/digits_copied" / name
        assert ours.read_bytes() == (project.folder / "whole" / name).read_bytes(), name
    planned = ("digits_copied", "--dry-run", "--quiet", "host", "--logger-emmeter-plain")
    assert "audit_target" not in project.snakemake(*planned).stdout
    project.change("audits.digits_copied.fail_above", 0.5)
    output = project.snakemake(*planned).stdout
    assert "audit_target" in output and "audit_shard" not in output
    np.savez(project.folder / "images/copies.npz", images=np.load(project.folder / "images/new.npz")["images"])
    assert "audit_shard" in project.snakemake(*planned).stdout


def test_faults_of_audits_are_lines_before_any_job(project):
    pair = {"generated": "a", "train": "b"}
    project.change("audits", {"all": pair, "good": pair})
    assert "error: audits.all: its name becomes a target" in project.snakemake("-n", check=False).stdout
    project.change("audits", {"good": {**pair, "criteria": ["l2"]}})
    output = project.snakemake("-n", check=False).stdout
    assert "error: audits.good.criteria = 'l2': must be one of ratio, calibrated, cosine" in output


@pytest.mark.exhaustive
def test_a_run_of_a_study_is_audited_as_the_command_audits_it_and_made_if_it_is_missing(project):
    record = "results/audits/mine/audit.json"
    project.change("audits", {"mine": {"generated": "labels/random/n10/r0"}})
    assert project.plan(record).rules == {"audit_target"}
    project.snakemake("mine")
    command = [sys.executable, "-m", "emmeter.cli", "audit", "labels/random/n10/r0", "-o", "whole"]
    subprocess.run(command, **project.process())
    for name in os.listdir(project.folder / "whole"):
        ours = project.folder / "results/audits/mine" / name
        assert ours.read_bytes() == (project.folder / "whole" / name).read_bytes(), name
    project.change("audits.mine.generated", "labels/random/n20/r3")
    assert project.plan(record).rules == {"subset", "train", "sample", "audit_target"}


def test_an_audit_of_a_run_that_there_cannot_be_is_a_line_before_any_job(project):
    for generated, expected in (
        ("label/random/n10/r0", "audits.mine.generated = 'label/random/n10/r0': is not a study, or a path that exists"),
        ("labels/true/n10/r0", "audits.mine.generated = 'labels/true/n10/r0': is not an arm of labels"),
        ("labels/random/n99999/r0", "audits.mine.generated = 'labels/random/n99999/r0': n99999 must be a multiple of "),
        ("labels/random", "audits.mine.train = null: must name the images that the model was trained on"),
    ):
        project.change("audits", {"mine": {"generated": generated}})
        assert f"error: {expected}" in project.snakemake("-n", check=False).stdout, generated
