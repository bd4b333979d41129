"""Which jobs build compiled packages: those whose architecture has enough work left in the whole workflow."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from emmeter.pipeline import compiling
from emmeter.pipeline.index import Index, index_of
from emmeter.settings.configuration import load, read
from emmeter.settings.sections import Setup

ROOT = Path(__file__).parents[2]
DEFAULT = "clang++" if sys.platform == "darwin" else "g++"


def indexed(tmp_path: Path, changes: Mapping[str, object] = MappingProxyType({}), **arms: dict[str, object]) -> Index:
    """An index of one study on the default settings, with these changes of the base, named as section.key."""
    given: dict[str, Any] = {"studies": {"own": {"arms": arms or {"base": {}}}}, "run": ["own"]}
    for name, value in changes.items():
        section, key = name.split(".")
        given.setdefault(section, {})[key] = value
    return index_of(read(load([], ROOT, given), asked=()), tmp_path, asked=())


def setups(index: Index) -> list[Setup]:
    return [arm.setup for arm in index.study("own").arms]


def decisions(index: Index) -> list[tuple[bool, bool]]:
    """Whether the jobs of each arm build the package of the step, and that of the denoiser."""
    work = compiling.planned(index, ["own"])
    return [
        (compiling.builds(index, "train", setup, work), compiling.builds(index, "sample", setup, work))
        for setup in setups(index)
    ]


def test_the_default_study_is_too_short_to_pay(tmp_path):
    assert decisions(indexed(tmp_path)) == [(False, False)]


def test_long_trainings_pay_and_count_together(tmp_path):
    """At 500 steps and 46 evaluations a run, about six runs an arm: 15,000 steps are reached by six arms."""
    assert decisions(indexed(tmp_path, {"training.duration": "160000 images"})) == [(True, False)]
    skips = {f"arm{i}": {"training.learning_rate": 0.001 * (i + 1)} for i in range(8)}
    assert decisions(indexed(tmp_path, **skips)) == [(True, False)] * 8
    assert decisions(indexed(tmp_path, **dict(list(skips.items())[:2]))) == [(False, False)] * 2


def test_skip_masks_and_labels_share_a_package_and_widths_do_not(tmp_path):
    index = indexed(
        tmp_path, base={}, masked={"network.skips": [1, 0, 0, 1]}, labelled={"data.labels": "true"},
        wide={"network.channels": 24}, large={"training.batch_size": 64},
    )  # fmt: skip
    architectures = [compiling.architecture(index, "train", setup).text() for setup in setups(index)]
    assert architectures[0] == architectures[1] == architectures[2]
    assert len(set(architectures)) == 3
    denoisers = [compiling.architecture(index, "sample", setup).text() for setup in setups(index)]
    assert denoisers[0] == denoisers[4] != denoisers[3]


@pytest.mark.parametrize("change", [{"network.channels": 128}, {"training.precision": "bfloat16"}])
def test_wide_networks_and_bfloat16_never_pay(tmp_path, change):
    assert decisions(indexed(tmp_path, {"training.duration": "1600000 images"} | change))[0][0] is False


def test_more_sampling_pays_for_the_denoiser(tmp_path):
    assert decisions(indexed(tmp_path, {"sampling.images": 20000}))[0] == (False, True)


def test_shared_trainings_count_once(tmp_path):
    index = indexed(tmp_path, base={}, sampled={"sampling.steps": 30})
    alone = indexed(tmp_path, base={})
    step = compiling.architecture(index, "train", setups(index)[0]).text()
    assert compiling.planned(index, ["own"])[step] == compiling.planned(alone, ["own"])[step] > 0


def test_the_optimum_needs_no_package(tmp_path):
    index = indexed(tmp_path, base={"diffusion.denoiser": "optimum"})
    assert not compiling.planned(index, ["own"])


def test_a_study_that_cannot_run_here_needs_no_package(tmp_path):
    index = indexed(tmp_path, base={}, large={"search.n_min": 3000, "search.n_max": 4000})
    assert "own" in index.impossible
    assert not compiling.planned(index, ["own"])


def test_a_missing_compiler_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "no C++ compiler" in (compiling.missing_compiler() or "")
    for name in (DEFAULT, "other"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert compiling.missing_compiler() is None
    monkeypatch.setenv("CXX", "absent")
    assert "(absent)" in (compiling.missing_compiler() or "")
    monkeypatch.setenv("CXX", "other")
    assert compiling.missing_compiler() is None
