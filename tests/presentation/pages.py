"""Pages for tests: of a study with every kind of answer, of the reference results, and of names that need escaping."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from emmeter.files.writing import write_csv
from emmeter.stages.report import report
from tests import made_up, reference

ODD = {"small": "<b>a & $b$", "large": 'x0.25 "c"'}  # new names of two arms


def outline(description: dict[str, Any]) -> dict[str, str]:
    return {name: description[name] for name in ("name", "title", "source", "factor")}


def made_up_page(folder: Path, names: dict[str, str] | None = None) -> Path:
    """The page of the made-up study, its arms renamed as `names` say."""
    tables = folder / "experiment" / "made_up"
    tables.mkdir(parents=True)
    made_up.write(tables)
    for path in tables.glob("*.csv") if names else ():
        _rename(path, names or {})
    page = tables.parent / "report.html"
    report([outline(made_up.description())], tables.parent, page)
    return page


def _rename(path: Path, names: dict[str, str]) -> None:
    """Give the arms in a table other names."""
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    for row in rows:
        for column, cell in enumerate(row):
            if header[column] in ("arm", "baseline", "arms"):
                row[column] = " ".join(names.get(word, word) for word in cell.split())
    write_csv(path, header, [dict(zip(header, row, strict=True)) for row in rows])


def reference_page(folder: Path, scale: str, results: Path) -> Path:
    """The page of the reference results of a scale, which hold tables but no records and no images."""
    index = reference.configured(scale, results)
    tables = shutil.copytree(reference.REFERENCE / scale, folder / scale)
    made = [study for study in index.settings.studies if (tables / study.name / "emm.csv").is_file()]
    studies = [{name: getattr(study, name) for name in ("name", "title", "source", "factor")} for study in made]
    page = tables / "report.html"
    report(studies, tables, page)
    return page


def noise(side: int) -> np.ndarray:
    """A colour image of noise, which compresses worst."""
    return np.random.default_rng(side).integers(0, 256, (3, side, side), dtype=np.uint8)
