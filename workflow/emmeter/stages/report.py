"""The report stage makes the page of an experiment from its tables and records."""

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from emmeter.command import command
from emmeter.errors import StageError
from emmeter.files import records
from emmeter.files.layout import RECORDS, SETTINGS, arm_folder, run_folder
from emmeter.files.provenance import COMMAND
from emmeter.files.records import EmmRecord, SamplingRecord, SubsetRecord, TrainingRecord
from emmeter.files.scores import read_gallery
from emmeter.files.tables import (
    ARM_COLUMNS,
    BUDGET_COLUMNS,
    CONTRAST_COLUMNS,
    COPIED_COLUMNS,
    CRITERIA_COLUMNS,
    CURVE_COLUMNS,
    DENOISING_COLUMNS,
    EMM_COLUMNS,
    FINDING_COLUMNS,
    ONSET_COLUMNS,
    PUBLISHED_COLUMNS,
    QUALITY_COLUMNS,
    SHAPE_COLUMNS,
    frame,
    read,
)
from emmeter.files.writing import write_text
from emmeter.presentation.page.material import File, Material, Records, Search, StudyMaterial
from emmeter.presentation.page.page import page
from emmeter.settings.keys import Stage

STUDY_TABLES = (
    "emm",
    "contrasts",
    "findings",
    "curves",
    "onset",
    "budget",
    "quality",
    "copied",
    "tradeoff",
    "criteria",
)
JOINED_TABLES = ("emm", "findings", "published", "shape")

if TYPE_CHECKING:
    from pandas import DataFrame

R = TypeVar("R", SubsetRecord, TrainingRecord, SamplingRecord)


def report(
    studies: Sequence[Mapping[str, str]],
    folder: Path,
    output: Path,
    *,
    results: Path | None = None,
    configuration: Mapping[str, Any] | None = None,
    line: str = "",
) -> None:
    """Write the page of an experiment.

    Args:
        studies: outlines of its studies (`emmeter.pipeline.description.outline`), in the order of the page.
        folder: the folder of its tables.
        output: the HTML file to write.
        results: the folder of results, for records and images; None: they are not there.
        configuration: the configuration in force; None: it is not known.
        line: the command that makes the page.
    Raises:
        DataError: a record has changed since it was written.
        StageError: a table is missing or damaged.
    """
    joined = output.parent == folder  # otherwise it is the page of one study, to which tables of all do not belong
    write_text(output, page(material(studies, folder, results, configuration or {}, line, joined)))


def material(
    studies: Sequence[Mapping[str, str]],
    folder: Path,
    results: Path | None,
    configuration: Mapping[str, Any],
    line: str,
    joined: bool,
) -> Material:
    """Read everything that the page is made from; arguments and errors as for `report`.

    Args:
        joined: also read the tables that join those of all studies.
    """
    beside = [folder / "shape.csv"] if joined and (folder / "shape.csv").is_file() else []
    shape = read(beside, SHAPE_COLUMNS) if beside else frame((), SHAPE_COLUMNS)
    parts = [read_study(study, folder, results, shape) for study in studies]
    searches = [search.record for part in parts for search in part.searches.values()]
    published = [path for path in (folder / "published.csv",) if joined and path.is_file()]
    return Material(
        name=folder.name,
        studies=parts,
        records=read_records(results, searches) if results else Records([], [], []),
        published=read(published, PUBLISHED_COLUMNS) if published else frame((), PUBLISHED_COLUMNS),
        files=files(folder, JOINED_TABLES, "") if joined else (),
        configuration=in_force(configuration, [study["name"] for study in studies], line),
        command=line,
        settings=configuration,
    )


def read_study(study: Mapping[str, str], folder: Path, results: Path | None, shape: "DataFrame") -> StudyMaterial:
    """Read tables and searches of a study; `study` is its outline, `shape` is shape.csv."""
    own = folder / study["name"]
    emm, findings = read([own / "emm.csv"], EMM_COLUMNS), read([own / "findings.csv"], FINDING_COLUMNS)
    expected, compared = set(findings["expect"]), shape.loc[shape["study"] == study["name"], :]
    searches = {}
    for arm in emm.to_dict("records"):
        if results and (search := read_search(arm_folder(results, "emm", arm["key"]))):
            searches[arm["arm"]] = search
    return StudyMaterial(
        name=study["name"],
        title=study["title"],
        source=study["source"],
        factor=study["factor"],
        emm=emm,
        curves=read([own / "curves.csv"], CURVE_COLUMNS),
        contrasts=read([own / "contrasts.csv"], CONTRAST_COLUMNS),
        findings=findings,
        onset=read([own / "onset.csv"], ONSET_COLUMNS) if "proportional" in expected else None,
        budget=read([own / "budget.csv"], BUDGET_COLUMNS) if "forecast" in expected else None,
        quality=read_measured(own / "quality.csv", QUALITY_COLUMNS),
        copied=read_measured(own / "copied.csv", COPIED_COLUMNS),
        shape=compared if len(compared) else None,
        denoising=read_measured(own / "denoising.csv", DENOISING_COLUMNS),
        criteria=read([own / "criteria.csv"], CRITERIA_COLUMNS) if (own / "criteria.csv").is_file() else None,
        searches=searches,
        files=files(folder, STUDY_TABLES, study["name"]),
    )


def read_measured(path: Path, columns: Sequence[str]) -> "DataFrame | None":
    """A table of measures of a study; None if it is not there."""
    return read([path], (*ARM_COLUMNS, *columns)) if path.is_file() else None


def read_search(folder: Path) -> Search | None:
    """The finished search in a folder; None if it is not there.

    A gallery of an earlier version is left out.
    """
    if not (folder / RECORDS["emm"]).is_file():
        return None
    record = records.read(folder / RECORDS["emm"], EmmRecord)
    settings, gallery = folder / SETTINGS, folder / "gallery.npz"
    text = settings.read_text(encoding="utf-8") if settings.is_file() else ""
    try:
        images = read_gallery(gallery) if gallery.is_file() else None
    except StageError:
        images = None
    return Search(record, text, images)


def read_records(results: Path, searches: Iterable[EmmRecord]) -> Records:
    """The records of the different runs of searches.  A search of an earlier version does not name its runs."""
    searches = list(searches)
    return Records(
        _read_runs(results, searches, "subset", SubsetRecord),
        _read_runs(results, searches, "train", TrainingRecord),
        _read_runs(results, searches, "sample", SamplingRecord),
    )


def _read_runs(results: Path, searches: Sequence[EmmRecord], stage: Stage, kind: type[R]) -> list[R]:
    paths = {
        run_folder(results, stage, key, run["n"], run["replicate"]) / RECORDS[stage]: None
        for search in searches
        if (key := search.get("keys", {}).get(stage))
        for run in search["runs"]
    }
    return [records.read(path, kind) for path in paths if path.is_file()]


def files(folder: Path, names: Iterable[str], study: str) -> list[File]:
    """The tables of a study, or without its name those of the whole experiment, that are there and have rows."""
    paths = [Path(study, f"{name}.csv") for name in names]
    found = [File(str(path), (folder / path).read_bytes()) for path in paths if (folder / path).is_file()]
    return [file for file in found if file.content.count(b"\n") > 1]


def in_force(configuration: Mapping[str, Any], studies: Sequence[str], line: str) -> str:
    """The configuration in force as YAML, with these studies alone; nothing without a configuration."""
    if not configuration:
        return ""
    import yaml

    kept = {name: study for name, study in configuration["studies"].items() if name in studies}
    content = {**configuration, "run": list(studies), "studies": kept}
    head = f"# The settings in force when the page was made by: {line}\n" if line else ""
    return head + yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False, allow_unicode=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--studies", required=True, help="outlines of the studies as JSON")
    parser.add_argument("--config", default="{}", help="the configuration in force as JSON")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--results", type=Path, help="folder of results (default: neither records nor images)")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    report(
        json.loads(args.studies),
        args.folder,
        args.output,
        results=args.results,
        configuration=json.loads(args.config),
        line=os.environ.get(COMMAND, ""),
    )


if __name__ == "__main__":
    command(main)
