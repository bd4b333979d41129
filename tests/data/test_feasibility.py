"""Feasibility: sizes that a data set allows, values that it decides, and settings that it makes impossible."""

import numpy as np
import pytest

from digits import digits, faults
from emmeter.data import datasets, feasibility, subset
from emmeter.data.images import Copies, Facts
from emmeter.errors import Fault, SettingsError
from emmeter.settings.sections import Data, Setup

SMALL = {"n_min": 2, "n_max": 10, "start": 2}  # a search of sizes that few images have

# -- usable sizes, and faults


def facts(counts=(5, 7), side=8, images=None) -> Facts:
    shape = (1, side, side)
    return Facts(sum(counts) if counts else images, shape, counts, shape, counts)


@pytest.mark.parametrize(
    ("described", "balanced", "expected"),
    [
        (facts(), True, (2, 10)),
        (facts(), False, (1, 12)),
        (facts(None, images=9), True, (1, 9)),
        (facts((4,)), True, (1, 4)),
    ],
)
def test_usable(described, balanced, expected):
    assert feasibility.usable(described, Data(source="digits", balanced=balanced)) == expected


def test_no_fault():
    assert faults(digits()) == []
    assert faults(digits(search={"rule": "grid", "grid": [10, 1740], "n_max": 50_000})) == []  # the rule ignores n_max
    assert faults(digits(network={"attention": []})) == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            {"search": {"n_max": 1741}},
            "search.n_max = 1741: must be at most 1740, the largest subset of digits (10 classes",
        ),
        ({"search": {"n_min": 1800, "start": 1801, "n_max": 1802}}, "search.n_min = 1800: must be at most 1740"),
        ({"search": {"n_min": 1800, "start": 1801, "n_max": 1802}}, "search.start = 1801: must be at most 1740"),
        (
            {"search": {"n_min": 11, "start": 12, "n_max": 19}},
            "fewer than two multiples of 10, the number of classes, lie between",
        ),
        ({"search": {"n_min": 20, "start": 25, "n_max": 29}}, "search.n_max = 29: fewer than two multiples of 10"),
        ({"search": {"rule": "grid", "grid": [15, 20]}}, "search.grid = [15, 20]: sizes must be multiples of 10"),
        ({"search": {"rule": "grid", "grid": [20, 2000]}}, "search.grid = [20, 2000]: must be at most 1740"),
        (
            {"data": {"balanced": False}, "search": {"n_max": 1798}},
            "must be at most 1797, the largest subset of digits",
        ),
        ({"data": {"classes": [1, 10]}}, "data.classes = [1, 10]: must be among 0 to 9"),
        ({"data": {"classes": [1, 1]}}, "data.classes = [1, 1]: must name at least one class, and none twice"),
        ({"data": {"classes": [1, 2]}}, "search.n_max = 1740: must be at most 354"),
        ({"data": {"resolution": 16}}, "data.resolution = 16: must be at most 8"),
        ({"data": {"resolution": 6}}, "3 levels need a data.resolution divisible by 4, which 6 is not"),
        (
            {"network": {"architecture": "dit", "channels": 16, "patch": 3, "multipliers": [1] * 5}},
            "network.patch = 3: must divide the side of the images, 8 pixels",
        ),
        ({"network": {"multipliers": [1, 1, 1, 1, 1]}}, "network.multipliers = [1, 1, 1, 1, 1]: 5 levels need"),
        (
            {"network": {"attention": [4, 16]}},
            "network.attention = [4, 16]: no level has resolution 16; allowed: 8, 4, 2",
        ),
    ],
)
def test_faults(overrides, words):
    lines = faults(digits(**overrides))
    assert any(words in line for line in lines), lines
    assert not any("\n" in line for line in lines)


def test_network_is_not_checked_for_the_optimum():
    setup = digits(network={"attention": [16], "multipliers": [1] * 6}, diffusion={"denoiser": "optimum"})
    assert faults(setup) == []


def test_true_labels_need_labels(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((1000, 8, 8), np.uint8))
    setup = digits(data={"source": f"npz:{tmp_path}/a.npz", "labels": "true"}, search={"n_max": 500})
    assert faults(setup) == [f"data.labels = 'true': {setup.data.source} has no labels; use none, unique or random-K"]
    with pytest.raises(SettingsError, match="has no labels"):
        subset.draw(setup, 10, 0)


# -- values that the data decide


def test_null_values_are_decided_by_the_data():
    setup = Setup.model_validate({"network": {"attention": None}, "search": {"n_max": None, "n_min": 2, "start": 30}})
    fitted = feasibility.fitted(setup, facts((7, 9), side=16))
    assert fitted.network.attention == [8]
    assert (fitted.search.n_max, fitted.search.start) == (14, 14)  # balanced
    free = setup.model_copy(update={"data": setup.data.model_copy(update={"balanced": False})})
    assert feasibility.fitted(free, facts((7, 9))).search.n_max == 16
    one_level = Setup.model_validate({"network": {"attention": None, "multipliers": [1]}})
    assert feasibility.fitted(one_level, facts()).network.attention == []
    given = Setup()
    assert feasibility.fitted(given, facts()) == given


@pytest.mark.parametrize(("side", "levels"), [(8, 2), (32, 3), (16, 3), (28, 2), (64, 4), (9, 1)])
def test_the_attention_that_is_chosen_is_one_of_the_network(side, levels):
    run = Setup.model_validate({"network": {"attention": None, "multipliers": [1] * levels}, "search": SMALL})
    described = facts(side=side)
    assert feasibility.faults(feasibility.fitted(run, described), described) == []


# -- bounds that class balance moves


@pytest.mark.parametrize(
    ("search", "balanced", "start"),
    [
        ({"n_min": 5, "start": 5, "n_max": 645}, True, "search.n_min = 5 becomes 10, search.start = 5 becomes 10, "),
        ({"n_min": 5, "start": 20, "n_max": 640}, True, "search.n_min = 5 becomes 10: "),
        ({"n_min": 10, "start": 25, "n_max": 645}, True, "search.n_max = 645 becomes 640: "),
        ({"n_min": 10, "start": 25, "n_max": 640}, True, ""),  # the start is a hint
        ({"n_min": 5, "start": 5, "n_max": 645}, False, ""),
        ({"rule": "grid", "grid": [10], "n_min": 5, "start": 5, "n_max": 645}, True, ""),
    ],
)
def test_bounds_that_class_balance_moves_are_reported(search, balanced, start):
    setup = digits(search=search, data={"balanced": balanced})
    lines = feasibility.rounded(setup, datasets.describe(setup.data))
    assert len(lines) == bool(start)
    assert not start or (lines[0].startswith(start) and "multiples of the 10 classes" in lines[0])


# -- equal images


def alike(same: list[int], labels: list[int] | None = None) -> Copies:
    return Copies(np.array(same), None if labels is None else np.array(labels))


def too_equal(copies: Copies | None, search: dict[str, object], **data: object) -> list[str]:
    """The line about a file whose images have these `copies`."""
    count = 40 if copies is None else len(copies.same)
    labels = None if copies is None else copies.labels
    counts = None if labels is None else tuple(np.bincount(labels).tolist())
    setup = Setup.model_validate({"data": {"source": "npz:a.npz"} | data, "search": SMALL | search})
    used = counts if counts is None or setup.data.classes is None else tuple(counts[c] for c in setup.data.classes)
    described = Facts(sum(used) if used else count, (1, 8, 8), used, (1, 8, 8), counts)
    return list(map(str, feasibility.too_equal(setup, described, [copies])))


def test_different_images_are_no_fault():
    assert too_equal(None, {}) == []
    assert too_equal(alike([0, 0, *range(2, 12)]), {"n_min": 3, "start": 3}) == []  # a third image always differs


@pytest.mark.parametrize("data", [{}, {"balanced": False}, {"classes": [1]}])
def test_images_that_are_all_the_same_are_reported(data):
    (line,) = too_equal(alike([0] * 20, [0] * 10 + [1] * 10), {}, **data)
    assert line.startswith("data.source = 'npz:a.npz': its ")
    assert "all the same" in line


def test_a_class_of_one_image_is_a_fault_if_it_is_used_alone():
    copies = alike([*range(10), *[10] * 10], [0] * 10 + [1] * 10)
    assert too_equal(copies, {}) == []
    assert too_equal(copies, {}, classes=[0]) == []
    (line,) = too_equal(copies, {}, classes=[1])
    assert "its 10 images are all the same" in line
    (notice,) = feasibility.single_image_classes(Data(source="npz:a.npz"), copies)
    assert notice == "npz:a.npz: class 1 holds copies of one image only"
    assert feasibility.single_image_classes(Data(source="npz:a.npz", classes=[0]), copies) == []


@pytest.mark.parametrize("search", [{}, {"rule": "grid", "grid": [2, 4]}])
def test_a_subset_that_would_hold_copies_of_one_image_is_reported(search):
    """The first images of each replicate, as they will be drawn."""
    copies = alike([0] * 8 + [8, 9])
    (line,) = too_equal(copies, search, draw="first")
    name = "grid" if search else "n_min"
    assert line == (
        "data.source = 'npz:a.npz': replicate 0 would begin with 2 copies of one image; "
        f"search.{name} from 9 on is large enough"
    )
    assert too_equal(copies, {"n_min": 9, "start": 9}, draw="first") == []


def test_the_reported_replicate_is_drawn_like_this(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.zeros((12, 8, 8), np.uint8)
    images[9:] = np.arange(1, 4)[:, None, None]
    np.savez("a.npz", images=images)
    setup = Setup.model_validate(
        {"data": {"source": "npz:a.npz"}, "search": SMALL | {"rule": "grid", "grid": [2], "replicates": 20}}
    )
    copies = alike([0] * 9 + [9, 10, 11])
    drawn = [not subset.draw(setup, 2, replicate).groups.any() for replicate in range(20)]
    (line,) = map(str, feasibility.too_equal(setup, datasets.describe(setup.data), [copies]))
    assert f"replicate {drawn.index(True)} would" in line


def test_a_mixture_is_judged_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", images=np.zeros((12, 8, 8), np.uint8))
    mixed = {"source": "npz:a.npz", "mixture": "digits", "mixture_share": 0.5}
    setup = Setup.model_validate({"data": mixed, "search": SMALL})
    described = datasets.describe(setup.data)
    assert feasibility.too_equal(setup, described, [alike([0] * 12), None]) == []  # every second image is a digit
    less = setup.model_copy(update={"data": setup.data.model_copy(update={"mixture_share": 0.1})})
    (line,) = map(str, feasibility.too_equal(less, datasets.describe(less.data), [alike([0] * 12), None]))
    assert "search.n_min from " in line


# -- notices


def test_notices_of_an_arm_and_of_its_data():
    """Moved bounds belong to the arm; size and sigma_data of the images are the same for all arms."""
    counts = (20, 20)
    facts = Facts(40, (1, 8, 8), counts, (1, 16, 16), counts)
    search = SMALL | {"n_min": 3, "start": 3}
    setup = Setup.model_validate({"data": {"source": "npz:a.npz"}, "search": search, "diffusion": {"sigma_data": 0.5}})
    bounds, images = feasibility.notices(setup, facts, None, 0.25)
    assert bounds.of_arm
    assert bounds.text.startswith("search.n_min = 3 becomes 4, search.start = 3 becomes 4: ")
    assert not images.of_arm
    assert images.text == (
        "npz:a.npz: images of 16x16 pixels are used at 8x8; "
        "diffusion.sigma_data = 0.5 is not theirs, which is 0.25 (null measures it)"
    )
    assert feasibility.notices(setup, facts, None, None)[1].text == "npz:a.npz: images of 16x16 pixels are used at 8x8"


def test_a_fault_of_the_second_source_names_its_own_setting():
    data = Data(source="digits", mixture="digits", mixture_share=0.5, mixture_classes=[10])
    rule = "must be among 0 to 9 for digits"
    assert feasibility.data_faults(data, datasets.describe(data)) == [Fault("data.mixture_classes", "[10]", rule)]


def test_networks_for_quality_that_are_not_here_are_faults_before_any_job():
    setup = digits(quality={"features": ["pixels", "torchscript:nowhere.pt"]})
    assert faults(setup) == [
        "quality.features = 'torchscript:nowhere.pt': nowhere.pt: no such file: must be a TorchScript file"
    ]
    assert faults(digits(quality={"features": ["torchscript:nowhere.pt"], "enabled": False})) == []
