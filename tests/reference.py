"""Tables and figures of the reference results, made anew from their own runs: ``uv run python tests/reference.py``.

The runs in curves.csv, with their roles, are all that is read of a study; what is estimated from them follows from the
present code.  A search that was made by other rules than today's keeps its runs, and its answer is estimated as far as
they suffice: where fresh runs at the end of the ladder are missing, the locating run stands for them.
"""

import csv
import json
import sys
from pathlib import Path
from typing import Any

from emmeter.files import tables
from emmeter.files.tables import EMM_COLUMNS
from emmeter.files.writing import write_csv
from emmeter.measure import scatter
from emmeter.measure.arms import ArmResult, counts_of, trail_of
from emmeter.measure.outcome import logit
from emmeter.measure.scatter import Prior
from emmeter.measure.search import CLEAR, Status
from emmeter.pipeline import description
from emmeter.pipeline.index import Index, index_of
from emmeter.presentation import figures, findings, style
from emmeter.settings.configuration import load, read
from emmeter.settings.keys import key
from emmeter.settings.sections import Figures, Search
from emmeter.stages import study

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results/reference/laptop"
STUDIES = sorted(path.parent.name for path in REFERENCE.glob("*/emm.csv"))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def configured(results: Path) -> Index:
    """The configuration of the laptop scale; `results` is not looked into."""
    return index_of(read(load([ROOT / "config/laptop.yaml"], ROOT)), results, data_needed=False)


def arms_of(index: Index, name: str) -> tuple[dict[str, Any], list[ArmResult]]:
    """The description of a study, and its arms as their rows in emm.csv (cost, rule) and curves.csv (runs) tell."""
    described = json.loads(json.dumps(description.description(index, name)))
    curves = rows(REFERENCE / name / "curves.csv")
    arms = []
    for about, arm, known in zip(
        described["arms"], index.study(name).arms, rows(REFERENCE / name / "emm.csv"), strict=True
    ):
        assert about["name"] == known["arm"]
        mine = [row for row in curves if row["arm"] == arm.name]
        arms.append(_arm(about, index.sizes[key("emm", arm.setup)], known, mine))
    return described, arms


def _arm(about: dict[str, Any], sizes: list[int], known: dict[str, str], curves: list[dict[str, str]]):
    runs: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in curves:
        place = {"n": int(row["n"]), "replicate": int(row["replicate"]), "role": row["role"]}
        run = runs.setdefault(tuple(map(str, place.values())), place | {"snapshots": []})
        run["snapshots"].append({"images_seen": int(row["images_seen"]), "ratio": float(row["ratio"])})
        for name in ("memorized", "images"):
            run["snapshots"][-1][name] = run[name] = int(row[name])  # of a run: those of its last snapshot
    search = Search.model_validate(about["search"])
    if known["rule"] != search.rule:  # made by a search, where the configuration now asks for one size
        search = search.model_copy(update={"rule": known["rule"]})
        sizes = sorted({run["n"] for run in runs.values()})
    record: dict[str, Any] = {
        "sizes": sizes,
        "runs": list(runs.values()),
        "threshold": float(known["threshold"]),
        "snapshot": known["snapshot"],
        "images_trained": int(known["images_trained"]),
        "flops": int(known["flops"]),
        "run_seconds": float(known["seconds"]),
    }
    record["status"] = _status(search, sizes, record)
    return ArmResult(about["name"], about | {"search": search.model_dump()}, search, record, trail_of(record))


def _status(search: Search, sizes: list[int], record: dict[str, Any]) -> Status:
    """Where the runs put the crossing: on the ladder, or beyond the end at which all of them lie on one side."""
    runs = [run for run in record["runs"] if run["role"] == "confirm"] or record["runs"]
    counts = counts_of(record)
    line = logit(1 - search.epsilon)
    y = {n: [c.logit - line for run, c in counts.items() if run.n == n] for n in {run["n"] for run in runs}}
    means = {n: sum(of_size) / len(of_size) for n, of_size in y.items()}
    fresh = any(run["role"] == "confirm" for run in record["runs"])
    if search.rule == "grid" or (fresh and min(means.values()) < CLEAR and max(means.values()) > -CLEAR):
        return "crossing"
    if max(means.values()) < 0 and min(means) == sizes[0]:
        return "below"
    if min(means.values()) > 0 and max(means) == sizes[-1]:
        return "above"
    return "crossing" if fresh else "undetermined"


def prior_of(studies: list[list[ArmResult]]) -> Prior | None:
    """What all arms of the scale tell of the scatter of runs."""
    return scatter.fit(
        scatter.distinct((arm.about["key"], arm.trail, counts_of(arm.record)) for arms in studies for arm in arms)
    )


def write(folder: Path, described: dict[str, Any], arms: list[ArmResult], prior: Prior | None) -> None:
    """The tables that the study stage makes of these arms, but for curves.csv."""
    write_csv(folder / "emm.csv", EMM_COLUMNS, study.emm_rows(described, arms, prior))
    write_csv(folder / "contrasts.csv", tables.CONTRAST_COLUMNS, study.contrast_rows(described, arms, prior))
    write_csv(folder / "findings.csv", tables.FINDING_COLUMNS, study.finding_rows(described, arms, prior))
    if (REFERENCE / described["name"] / "onset.csv").is_file():
        grown = [row for arm in arms for row in study.onset_rows(described["name"], arm.name, arm.record["runs"])]
        write_csv(folder / "onset.csv", tables.ONSET_COLUMNS, grown)


def draw(folder: Path, described: dict[str, Any]) -> None:
    """The figures that need no images."""
    emm, curves = rows(folder / "emm.csv"), rows(folder / "curves.csv")
    drawn = {"curves": figures.draw_curves, "emm": figures.draw_emm}
    with style.styled():
        made = {name: function(described, emm, curves, Figures()) for name, function in drawn.items()}
        if (folder / "onset.svg").is_file():
            made["onset"] = figures.draw_onset(described, rows(folder / "onset.csv"), Figures())
        for name, figure in made.items():
            figure.savefig(folder / f"{name}.svg", format="svg", metadata={"Date": None})


def main() -> None:
    index = configured(ROOT / "results")
    known = [arms_of(index, name) for name in STUDIES]
    prior = prior_of([arms for _, arms in known])
    print(prior)
    for described, arms in known:
        write(REFERENCE / described["name"], described, arms, prior)
        draw(REFERENCE / described["name"], described)
    for table, columns in (("emm.csv", EMM_COLUMNS), ("findings.csv", tables.FINDING_COLUMNS)):
        order = [one.name for one in index.settings.studies if one.name in STUDIES]
        write_csv(REFERENCE / table, columns, [row for name in order for row in rows(REFERENCE / name / table)])
    found = rows(REFERENCE / "findings.csv")
    print(findings.lines(found))


if __name__ == "__main__":
    sys.exit(main())
