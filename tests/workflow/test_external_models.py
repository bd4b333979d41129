"""The workflow with a model of the user's: EMM from a command alone, and only its arms run again after an edit."""

import csv
from pathlib import Path
from typing import Any

import trainers
from project import Project


def study(trainer: Path) -> dict[str, Any]:
    """An arm whose command copies 90 % at N = 14, beside a network of the pipeline."""
    return {
        "title": "A model of the user's",
        "base": {"search.n_max": 40, "search.confirm": 4, "sampling.images": 100, "quality.enabled": False},
        "arms": {"mine": {"model.command": trainers.command(trainer), "model.files": [str(trainer)]}},
    }


def test_a_command_has_an_emm_and_runs_again_only_after_an_edit(empty: Project):
    trainer = trainers.write(empty.folder)
    empty.change("studies.own", study(trainer))
    planned = empty.plan("own")
    assert "external" in planned.rules
    assert not {"train", "sample"} & planned.rules
    empty.snakemake("own")
    with open(empty.folder / "results" / "digits" / "own" / "emm.csv", newline="") as file:
        [row] = csv.DictReader(file)
    assert 10 < float(row["emm"]) < 20
    assert (row["budget"], row["epochs"], row["flops"]) == ("own command", "", "")
    assert not list((empty.folder / "results").glob("state/*/*"))
    page = (empty.folder / "results" / "digits" / "own" / "report.html").read_text()
    assert "the training of its own command" in page
    assert ">nan<" not in page
    assert not empty.plan("own").jobs
    text = trainer.read_text()
    trainer.write_text(text + "# edited\n")
    again = empty.plan("own")
    assert again["external"]
    assert "train" not in again.rules
    trainer.write_text(text)
    assert not empty.plan("own").jobs


def test_a_command_that_fails_is_named_with_its_last_words(empty: Project):
    trainer = trainers.write(empty.folder, "raise SystemExit('no GPU here')")
    empty.change("studies.own", study(trainer))
    done = empty.snakemake("own", check=False)
    assert done.returncode
    [line] = {line for line in done.stdout.splitlines() if line.startswith("error: model.command")}
    assert line.endswith("has ended with status 1: no GPU here")
    assert not list((empty.folder / "results").glob("samples/*/*/*/*"))
