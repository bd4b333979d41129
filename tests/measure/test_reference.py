"""The reference results: the present code makes their tables from their runs."""

import pytest

from emmeter.measure.arms import fit_prior
from tests import reference
from tests.reference import REFERENCE, STUDIES


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Description and arms of every study."""
    index = reference.configured(tmp_path_factory.mktemp("results"))
    return {name: reference.read_study(index, name) for name in STUDIES}


@pytest.fixture(scope="module")
def prior(studies):
    return fit_prior([arm for _, arms in studies.values() for arm in arms])


@pytest.mark.parametrize("name", STUDIES)
def test_tables_follow_from_the_runs(studies, prior, name, tmp_path):
    reference.write(tmp_path, *studies[name], prior)
    for path in sorted(tmp_path.glob("*.csv")):
        assert path.read_bytes() == (REFERENCE / name / path.name).read_bytes(), path.name


def test_the_very_same_runs_have_the_same_interval_in_every_study(studies, prior):
    """An arm that serves several studies has one EMM and one interval, independent of the arms beside it."""
    answers = {}
    for _, arms in studies.values():
        for arm in arms:
            estimate = arm.estimate(prior)
            assert answers.setdefault(arm.about["key"] + str(arm.search), estimate) == estimate
    assert len(answers) < sum(len(arms) for _, arms in studies.values())  # some are shared


def test_joined_tables_are_those_of_the_studies():
    for table in ("emm.csv", "findings.csv"):
        joined = (REFERENCE / table).read_text().splitlines()
        single = [(REFERENCE / name / table).read_text().splitlines() for name in STUDIES]
        assert sorted(joined[1:]) == sorted(row for lines in single for row in lines[1:])
