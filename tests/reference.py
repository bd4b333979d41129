"""Make the tables and figures of the reference results again from their runs: ``uv run python tests/reference.py``.

Of a study only the runs in curves.csv are read, with their roles, and the cost and rule in emm.csv.  Everything else is
estimated by the present code.  A search that followed earlier rules keeps its runs, and the estimate uses what they
suffice for: where fresh runs at the end of the ladder are missing, the locating run takes their place.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pandas import DataFrame

from emmeter.files.tables import (
    BUDGET_COLUMNS,
    CONTRAST_COLUMNS,
    CURVE_COLUMNS,
    EMM_COLUMNS,
    FINDING_COLUMNS,
    ONSET_COLUMNS,
    SHAPE_COLUMNS,
    read,
    read_cells,
)
from emmeter.files.writing import write_csv
from emmeter.measure.arms import ArmResult, fit_prior
from emmeter.measure.outcome import logit
from emmeter.measure.scatter import Prior
from emmeter.measure.search import CLEAR, Status
from emmeter.pipeline import description
from emmeter.pipeline.index import Index, index_of
from emmeter.presentation import figures, findings, rows, shape_figure, style
from emmeter.presentation.curves_figure import draw_curves, study_heading
from emmeter.presentation.sentences import finding
from emmeter.presentation.shape import shape_rows
from emmeter.settings import configuration
from emmeter.settings.keys import key
from emmeter.settings.published import counterparts
from emmeter.settings.sections import Figures, Search
from emmeter.stages import claim_figure, shape
from emmeter.stages.figures import READING

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results/reference"
SCALES = sorted(path.name for path in REFERENCE.iterdir() if path.is_dir())  # each as config/<scale>.yaml sets it


OWN = {"photographs": frozenset({"intra_diversity"})}


def studies(scale: str) -> list[str]:
    """Studies with tables, except those whose tables need data of the user's own: these stay as they were made."""
    made = {path.parent.name for path in (REFERENCE / scale).glob("*/emm.csv")}
    return sorted(made - OWN.get(scale, frozenset()))


def configured(scale: str, results: Path) -> Index:
    """The index of a scale; nothing in the folder `results` is read."""
    settings = configuration.read(configuration.load([ROOT / f"config/{scale}.yaml"], ROOT))
    return index_of(settings, results, data_needed=False)


def read_study(index: Index, scale: str, name: str) -> tuple[dict[str, Any], list[ArmResult]]:
    """The description of a study, and its arms as curves.csv (runs) and emm.csv (cost, rule) describe them."""
    described = json.loads(json.dumps(description.description(index, name)))
    curves = read([REFERENCE / scale / name / "curves.csv"], CURVE_COLUMNS)
    emm = read([REFERENCE / scale / name / "emm.csv"], EMM_COLUMNS).to_dict("records")
    arms = []
    for about, arm, row in zip(described["arms"], index.study(name).arms, emm, strict=True):
        assert about["name"] == row["arm"]
        sizes = index.sizes[key("emm", arm.setup)]
        arms.append(_arm(about, sizes, row, curves[curves["arm"] == arm.name]))
    return described, arms


def _arm(about: dict[str, Any], sizes: list[int], row: dict[str, Any], curves: DataFrame) -> ArmResult:
    """An arm from its description, its ladder, its row of emm.csv and its rows of curves.csv."""
    runs = []
    for (n, replicate, role), snapshots in curves.groupby(["n", "replicate", "role"], sort=False):
        counts = [
            {name: int(snapshot[name]) for name in ("images_seen", "memorized", "images")}
            | {"ratio": snapshot["ratio"]}
            for snapshot in snapshots.to_dict("records")
        ]
        last = {name: counts[-1][name] for name in ("memorized", "images")}
        runs.append({"n": int(n), "replicate": int(replicate), "role": role, "snapshots": counts} | last)
    search = Search.model_validate(about["search"])
    if row["rule"] != search.rule:  # the runs are those of a search, and the configuration now asks for one size
        search = search.model_copy(update={"rule": row["rule"]})
        sizes = sorted({run["n"] for run in runs})
    record: dict[str, Any] = {
        "sizes": sizes,
        "runs": runs,
        "threshold": row["threshold"],
        "snapshot": row["snapshot"],
        "images_trained": int(row["images_trained"]),
        "flops": int(row["flops"]),
        "run_seconds": row["seconds"],
    }
    arm = ArmResult(about | {"search": search.model_dump()}, record)
    return ArmResult(arm.about, record | {"status": _status(arm)})


def _status(arm: ArmResult) -> Status:
    """The outcome of the search: a crossing on the ladder, or beyond the end if all sizes are on one side of the level.

    `arm` needs no status in its record.
    """
    confirming = [run for run in arm.record["runs"] if run["role"] == "confirm"]
    sizes, level = arm.record["sizes"], logit(1 - arm.search.epsilon)
    tried = {run["n"] for run in confirming or arm.record["runs"]}
    y = {n: [count.logit - level for run, count in arm.counts.items() if run.n == n] for n in tried}
    means = {n: sum(values) / len(values) for n, values in y.items()}
    if arm.search.rule == "grid" or (confirming and min(means.values()) < CLEAR and max(means.values()) > -CLEAR):
        return "crossing"
    if max(means.values()) < 0 and min(means) == sizes[0]:
        return "below"
    if min(means.values()) > 0 and max(means) == sizes[-1]:
        return "above"
    return "crossing" if confirming else "undetermined"


def write(folder: Path, described: dict[str, Any], arms: list[ArmResult], prior: Prior | None) -> None:
    """Write the tables of the study stage for these arms, except curves.csv."""
    write_csv(folder / "emm.csv", EMM_COLUMNS, rows.emm_rows(described, arms, prior))
    write_csv(folder / "contrasts.csv", CONTRAST_COLUMNS, rows.contrast_rows(described, arms, prior))
    write_csv(folder / "findings.csv", FINDING_COLUMNS, rows.finding_rows(described, arms, prior))
    expected = {claim["expect"] for _, claim in described["findings"]}
    if "proportional" in expected:
        write_csv(folder / "onset.csv", ONSET_COLUMNS, rows.onset_rows(described, arms))
    if "forecast" in expected:
        write_csv(folder / "budget.csv", BUDGET_COLUMNS, rows.budget_rows(described, arms, prior))


def draw(folder: Path, described: dict[str, Any]) -> None:
    """Draw the figures that need no images."""
    emm, curves = read([folder / "emm.csv"], EMM_COLUMNS), read([folder / "curves.csv"], CURVE_COLUMNS)
    text = finding(emm, read([folder / "contrasts.csv"], CONTRAST_COLUMNS), curves)
    with style.styled():
        drawn = {
            "curves": draw_curves(emm, curves, Figures(), study_heading(described, text, emm, READING)),
            "emm": figures.draw_emm(emm, Figures(), study_heading(described, text, emm)),
        }
        for kind in ("onset", "budget"):
            if (folder / f"{kind}.csv").is_file():
                drawn[kind] = claim_figure.drawn(kind, described, Figures(), folder / f"{kind}.csv")
        for name, figure in drawn.items():
            figure.savefig(folder / f"{name}.svg", format="svg", metadata={"Date": None})


def write_shape(
    folder: Path, index: Index, made: Sequence[tuple[dict[str, Any], list[ArmResult]]], prior: Prior | None
) -> None:
    """Write shape.csv of the studies that have published numbers."""
    numbers = counterparts(index.settings, ROOT)
    in_order = [study.name for study in index.settings.studies]
    found = sorted((study for study in made if study[0]["name"] in numbers), key=lambda s: in_order.index(s[0]["name"]))
    lines = [row for study, arms in found for row in shape_rows(study["name"], arms, prior, numbers[study["name"]])]
    write_csv(folder / "shape.csv", SHAPE_COLUMNS, lines)


def draw_shape(folder: Path, made: Sequence[tuple[dict[str, Any], list[ArmResult]]]) -> None:
    """Draw shape.svg from shape.csv."""
    table = read([folder / "shape.csv"], SHAPE_COLUMNS)
    described = [study for study, _ in made if study["name"] in set(table["study"])]
    titles = {study["name"]: study["title"] for study in described}
    with style.styled():
        figure = shape_figure.draw_shape(table, titles, shape.scales(described), Figures())
        figure.savefig(folder / "shape.svg", format="svg", metadata={"Date": None})


def main() -> None:
    for scale in SCALES:
        index, folder = configured(scale, ROOT / "results"), REFERENCE / scale
        made = [read_study(index, scale, name) for name in studies(scale)]
        prior = fit_prior([arm for _, arms in made for arm in arms])
        print(scale, prior)
        for described, arms in made:
            write(folder / described["name"], described, arms, prior)
            draw(folder / described["name"], described)
        write_shape(folder, index, made, prior)
        draw_shape(folder, made)
        order = [study.name for study in index.settings.studies if (folder / study.name / "emm.csv").is_file()]
        for table, columns in (("emm.csv", EMM_COLUMNS), ("findings.csv", FINDING_COLUMNS)):
            cells = read_cells([folder / name / table for name in order], columns)
            write_csv(folder / table, columns, cells.to_dict("records"))
        print(findings.lines(read([folder / "findings.csv"], FINDING_COLUMNS)))


if __name__ == "__main__":
    main()
