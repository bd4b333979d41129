"""The criteria_table stage judges a study's claims under other criteria for copies, from the counts of its arms."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from emmeter.command import command
from emmeter.files import checksums
from emmeter.files.tables import ARM_CRITERIA_COLUMNS, CRITERIA_COLUMNS, read
from emmeter.files.writing import write_csv
from emmeter.measure.arms import ArmResult, fit_prior
from emmeter.measure.criteria import rank_correlation, under
from emmeter.presentation.rows import finding_rows
from emmeter.stages.study import read_arms

OWN = "own"  # the criterion of the study


def criteria_table(
    description: Mapping[str, Any], records: Sequence[Path], tables: Sequence[Path], output: Path
) -> None:
    """Write criteria.csv of a study: its claims under each criterion and threshold.

    Args:
        description: the study as `emmeter.pipeline.description` describes it.
        records: emm.json of every arm, in the order of the description.
        tables: criteria.csv of every arm, in the same order.  If there are fewer, the table has no rows but the header.
        output: the CSV file to write.
    Raises:
        DataError: a record or a table has changed since it was written.
        StageError: there is not one record per arm, or a table is damaged.
    """
    arms = read_arms(description, records)
    checksums.check(tables)
    rows = list(_rows(description, arms, tables)) if len(tables) == len(arms) else []
    write_csv(output, CRITERIA_COLUMNS, rows)


def _rows(
    description: Mapping[str, Any], arms: Sequence[ArmResult], tables: Sequence[Path]
) -> Iterator[dict[str, Any]]:
    counts: list[dict[tuple[str, float], dict[tuple[float, float, float], float]]] = []
    for path in tables:
        found: dict[tuple[str, float], dict[tuple[float, float, float], float]] = {}
        for row in read([path], ARM_CRITERIA_COLUMNS).to_dict("records"):
            run = (row["n"], row["replicate"], row["images_seen"])
            found.setdefault((row["criterion"], row["threshold"]), {})[run] = row["memorized"]
        counts.append(found)
    own, emms = _judged(description, arms)
    yield from _claims(description["name"], OWN, None, own, own, rank_correlation(emms, emms))
    for criterion, threshold in dict.fromkeys(name for found in counts for name in found):
        known = [
            under(arm, found.get((criterion, threshold), {}), arm.record["snapshot"])
            for arm, found in zip(arms, counts, strict=True)
        ]
        others = [arm for arm in known if arm is not None]
        if len(others) == len(arms):
            judged, values = _judged(description, others)
            correlation = rank_correlation(emms, values)
            yield from _claims(description["name"], criterion, threshold, judged, own, correlation)


def _judged(
    description: Mapping[str, Any], arms: Sequence[ArmResult]
) -> tuple[list[dict[str, Any]], list[float | None]]:
    """Rows of findings.csv and the EMM of each arm, with the scatter of runs learned from these arms alone."""
    prior = fit_prior(arms)
    return list(map(dict, finding_rows(description, arms, prior))), [arm.estimate(prior).emm for arm in arms]


def _claims(
    study: str,
    criterion: str,
    threshold: float | None,
    judged: Sequence[Mapping[str, Any]],
    own: Sequence[Mapping[str, Any]],
    correlation: float | None,
) -> Iterator[dict[str, Any]]:
    """Rows of one criterion: one per claim, or a single one in a study without claims."""
    about = {"study": study, "criterion": criterion, "threshold": threshold, "rank_correlation": correlation}
    if not judged:
        yield {**dict.fromkeys(CRITERIA_COLUMNS), **about}
    for row, before in zip(judged, own, strict=True):
        cells = {name: row[name] for name in ("finding", "claim", "verdict", "effect", "effect_low", "effect_high")}
        yield {**about, **cells, "survives": row["verdict"] == before["verdict"]}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--study", required=True, help="description of the study as JSON")
    parser.add_argument("--records", type=Path, nargs="+", required=True, help="emm.json of every arm, in order")
    parser.add_argument("--tables", type=Path, nargs="*", default=[], help="criteria.csv of every arm, in order")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    criteria_table(json.loads(args.study), args.records, args.tables, args.output)


if __name__ == "__main__":
    command(main)
