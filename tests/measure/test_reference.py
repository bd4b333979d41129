"""The reference results: the present code makes their tables from their runs."""

import json

import pytest

from emmeter.measure.arms import fit_prior
from tests import reference
from tests.reference import REFERENCE, SCALES


@pytest.fixture(scope="module", params=SCALES)
def scale(request):
    return request.param


@pytest.fixture(scope="module")
def studies(scale, tmp_path_factory):
    """Description and arms of every study."""
    index = reference.configured(scale, tmp_path_factory.mktemp("results"))
    return {name: reference.read_study(index, scale, name) for name in reference.studies(scale)}


@pytest.fixture(scope="module")
def prior(studies):
    return fit_prior([arm for _, arms in studies.values() for arm in arms])


def test_tables_follow_from_the_runs(scale, studies, prior, tmp_path):
    assert studies
    for name, study in studies.items():
        reference.write(tmp_path, *study, prior)
        for path in sorted(tmp_path.glob("*.csv")):
            assert path.read_bytes() == (REFERENCE / scale / name / path.name).read_bytes(), (name, path.name)
            path.unlink()


def test_the_very_same_runs_have_the_same_interval_in_every_study(studies, prior):
    """An arm that serves several studies has one EMM and one interval, independent of the arms beside it."""
    answers, count = {}, 0
    for _, arms in studies.values():
        for arm in arms:
            estimate = arm.estimate(prior)
            runs = json.dumps(arm.record["runs"])  # another processor rounds otherwise, so its runs are others
            assert answers.setdefault(arm.about["key"] + str(arm.search) + runs, estimate) == estimate
            count += 1
    assert len(answers) <= count
    assert len(answers) < count or len(studies) < 3  # some are shared


def test_the_comparison_by_shape_follows_from_the_runs(scale, studies, prior, tmp_path):
    index = reference.configured(scale, tmp_path / "results")
    reference.write_shape(tmp_path, index, list(studies.values()), prior)
    assert (tmp_path / "shape.csv").read_bytes() == (REFERENCE / scale / "shape.csv").read_bytes()


def test_joined_tables_are_those_of_the_studies(scale):
    for table in ("emm.csv", "findings.csv"):
        joined = (REFERENCE / scale / table).read_text().splitlines()
        single = [path.read_text().splitlines() for path in (REFERENCE / scale).glob(f"*/{table}")]
        assert sorted(joined[1:]) == sorted(row for lines in single for row in lines[1:])
