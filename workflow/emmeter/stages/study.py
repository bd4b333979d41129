"""The study stage estimates and compares a study's arms, and writes its tables."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emmeter.command import command
from emmeter.errors import StageError
from emmeter.files.layout import EXPERIMENT
from emmeter.files.records import EmmRecord, read
from emmeter.files.tables import (
    BUDGET_COLUMNS,
    CONTRAST_COLUMNS,
    CURVE_COLUMNS,
    EMM_COLUMNS,
    FINDING_COLUMNS,
    ONSET_COLUMNS,
    frame,
)
from emmeter.files.writing import write_csv, write_json, write_text
from emmeter.measure.arms import ArmResult, fit_prior
from emmeter.measure.scatter import Prior
from emmeter.presentation import tables
from emmeter.presentation.rows import budget_rows, contrast_rows, curve_rows, emm_rows, finding_rows, onset_rows


def study(
    description: Mapping[str, Any],
    records: Sequence[Path],
    prior: Prior | None = None,
    *,
    emm: Path,
    curves: Path,
    contrasts: Path,
    findings: Path,
    onset: Path,
    budget: Path,
    page: Path,
    meaning: Mapping[str, Any] | None = None,
) -> None:
    """Write the six tables of a study, and a page of its EMMs.

    The record of the experiment, in the folder above, is written before them.  So tables are never without it.

    Args:
        description: the study as `emmeter.pipeline.description` describes it.
        records: emm.json of every arm, in the order of the description.
        prior: scatter of the runs of all finished arms; None: learn it from the study's own arms.
        emm, curves, contrasts, findings, onset, budget: the CSV files to write.
        page: the HTML file to write.
        meaning: what all EMMs of the experiment have in common (`emmeter.files.layout.EXPERIMENT`); None: no record.
    Raises:
        DataError: a record has changed since it was written.
        StageError: there is not one record per arm.
    """
    arms = read_arms(description, records)
    prior = prior or fit_prior(arms)
    if meaning is not None:
        write_json(emm.parent.parent / EXPERIMENT, meaning)
    rows = emm_rows(description, arms, prior)
    write_csv(emm, EMM_COLUMNS, rows)
    write_csv(curves, CURVE_COLUMNS, curve_rows(description, arms))
    write_csv(contrasts, CONTRAST_COLUMNS, contrast_rows(description, arms, prior))
    write_csv(findings, FINDING_COLUMNS, finding_rows(description, arms, prior))
    write_csv(onset, ONSET_COLUMNS, onset_rows(description, arms))
    write_csv(budget, BUDGET_COLUMNS, budget_rows(description, arms, prior))
    write_text(page, tables.page(f"EMM: {description['title']}", frame(rows, EMM_COLUMNS)))


def read_arms(description: Mapping[str, Any], records: Sequence[Path]) -> list[ArmResult]:
    """The arms of a study with their records, in the order of the configuration.

    Raises:
        DataError: a record has changed since it was written.
        StageError: there is not one record per arm.
    """
    arms = description["arms"]
    if len(records) != len(arms):
        raise StageError(f"--records: {len(records)} files for the {len(arms)} arms of study {description['name']}")
    return [ArmResult(about, read(path, EmmRecord)) for about, path in zip(arms, records, strict=True)]


def read_prior(text: str) -> Prior | None:
    """The prior of a command line: the fields of `Prior` as JSON, or null."""
    fields = json.loads(text)
    return None if fields is None else Prior(**fields)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--study", required=True, help="description of the study as JSON")
    parser.add_argument("--records", type=Path, nargs="+", required=True, help="emm.json of every arm, in order")
    parser.add_argument("--meaning", default="null", help="what all EMMs of the experiment have in common, as JSON")
    parser.add_argument("--prior", default="null", help="scatter of the runs of all finished arms as JSON")
    for option in ("--emm", "--curves", "--contrasts", "--findings", "--onset", "--budget", "--page"):
        parser.add_argument(option, type=Path, required=True)
    args = parser.parse_args(argv)
    study(
        json.loads(args.study),
        args.records,
        read_prior(args.prior),
        emm=args.emm,
        curves=args.curves,
        contrasts=args.contrasts,
        findings=args.findings,
        onset=args.onset,
        budget=args.budget,
        page=args.page,
        meaning=json.loads(args.meaning),
    )


if __name__ == "__main__":
    command(main)
