"""The reference results: their tables are what the present code makes of their runs."""

import pytest

from tests import reference
from tests.reference import REFERENCE, STUDIES, rows


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return reference.configured(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def known(index):
    """Description and arms of every study."""
    return {name: reference.arms_of(index, name) for name in STUDIES}


@pytest.fixture(scope="module")
def prior(known):
    return reference.prior_of([arms for _, arms in known.values()])


@pytest.mark.parametrize("name", STUDIES)
def test_tables_follow_from_the_runs(known, prior, name, tmp_path):
    reference.write(tmp_path, *known[name], prior)
    for path in sorted(tmp_path.glob("*.csv")):
        assert rows(path) == rows(REFERENCE / name / path.name), path.name


def test_the_very_same_runs_have_the_same_interval_in_every_study(known):
    """An arm that serves several studies has one EMM with one interval, whatever stands beside it."""
    answers: dict[str, set[tuple[str, ...]]] = {}
    for name, (_, arms) in known.items():
        for arm, row in zip(arms, rows(REFERENCE / name / "emm.csv"), strict=True):
            found = tuple(row[c] for c in ("emm", "emm_low", "emm_high", "status", "run_sd", "df"))
            answers.setdefault(arm.about["key"] + str(arm.search), set()).add(found)
    assert all(len(found) == 1 for found in answers.values())
    assert len(answers) < sum(len(arms) for _, arms in known.values())  # some are shared


def test_joined_tables_are_those_of_the_studies():
    for table in ("emm.csv", "findings.csv"):
        joined = [tuple(row.items()) for row in rows(REFERENCE / table)]
        single = [tuple(row.items()) for name in STUDIES for row in rows(REFERENCE / name / table)]
        assert sorted(joined) == sorted(single)
