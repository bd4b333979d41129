"""The reference results: their tables are what the present code makes of their runs."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from emm import findings, onset, study
from emm.configuration import load, read
from emm.dag import Dag, index
from emm.files import write_csv
from emm.keys import key
from emm.measure import counts_of, trail_of
from emm.search import replay
from emm.settings import Search
from emm.tables import EMM_COLUMNS

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results/reference/laptop"
STUDIES = sorted(path.parent.name for path in REFERENCE.glob("*/emm.csv"))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def dag(tmp_path_factory) -> Dag:
    overlay = [ROOT / "config/laptop.yaml"]
    return index(read(load(overlay, ROOT)), tmp_path_factory.mktemp("results"), data_needed=False)


def arm_result(described: dict[str, Any], sizes: list[int], known: dict[str, str], curves: list[dict[str, str]]):
    """An arm as its record tells of it, from its rows in emm.csv and curves.csv."""
    runs: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in curves:
        place = {"n": int(row["n"]), "replicate": int(row["replicate"]), "role": row["role"]}
        run = runs.setdefault(tuple(map(str, place.values())), place | {"snapshots": []})
        run["snapshots"].append({"images_seen": int(row["images_seen"]), "ratio": float(row["ratio"])})
        for name in ("memorized", "images"):
            run["snapshots"][-1][name] = run[name] = int(row[name])  # of a run: those of its last snapshot
    search = Search.model_validate(described["search"])
    record: dict[str, Any] = {
        "sizes": sizes,
        "runs": list(runs.values()),
        "threshold": float(known["threshold"]),
        "snapshot": known["snapshot"],
        "images_trained": int(known["images_trained"]),
        "flops": int(known["flops"]),
        "run_seconds": float(known["seconds"]),
    }
    trail = replay(search, sizes, counts_of(record))
    assert trail.finished, f"{described['name']}: {trail.missing}"
    record["status"] = trail.status
    assert trail_of(record) == trail  # the search asks for these runs still, in these roles
    return study.ArmResult(described["name"], described["value"], search, record, trail)


@pytest.mark.parametrize("name", STUDIES)
def test_tables_follow_from_the_runs(dag, name, tmp_path):
    folder = REFERENCE / name
    described = json.loads(json.dumps(study.description(dag.study(name))))
    curves = rows(folder / "curves.csv")
    arms = [
        arm_result(one, dag.sizes[key("emm", arm.run)], known, [row for row in curves if row["arm"] == arm.name])
        for one, arm, known in zip(described["arms"], dag.study(name).arms, rows(folder / "emm.csv"), strict=True)
    ]
    found = study.estimates(arms, [counts_of(arm.record) for arm in arms])
    ratios = study.contrasts(arms, found)
    write_csv(tmp_path / "emm.csv", EMM_COLUMNS, study.emm_rows(described, arms, found))
    write_csv(tmp_path / "contrasts.csv", study.CONTRAST_COLUMNS, study.contrast_rows(described, arms, ratios))
    write_csv(tmp_path / "findings.csv", findings.COLUMNS, study.finding_rows(described, arms, ratios))
    if (folder / "onset.csv").is_file():
        grown = [row for arm in arms for row in onset.rows(name, arm.name, arm.record["runs"])]
        write_csv(tmp_path / "onset.csv", onset.COLUMNS, grown)
    for path in sorted(tmp_path.glob("*.csv")):
        assert rows(path) == rows(folder / path.name), path.name


def test_joined_tables_are_those_of_the_studies():
    for table in ("emm.csv", "findings.csv"):
        joined = [tuple(row.items()) for row in rows(REFERENCE / table)]
        single = [tuple(row.items()) for name in STUDIES for row in rows(REFERENCE / name / table)]
        assert sorted(joined) == sorted(single)
