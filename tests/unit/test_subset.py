"""Drawing subsets: nested, balanced, reproducible, and refused before anything is written when impossible."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emm import datasets, stage, subset
from emm.datasets import DataError, Facts
from emm.settings import Data, Run, SettingsError

DIGITS = {"data": {"source": "digits"}, "search": {"n_min": 20, "n_max": 1740, "start": 160}}


def digits(**overrides) -> Run:
    """A run on digits; `overrides` are whole sections, added to those of DIGITS."""
    merged = {name: DIGITS.get(name, {}) | overrides.get(name, {}) for name in {*DIGITS, *overrides}}
    return Run.model_validate({"network": {"attention": [4]}} | merged)


def faults(run: Run) -> list[str]:
    return subset.faults(run, datasets.describe(run.data))


LABELS = st.lists(st.integers(0, 4), min_size=5, max_size=60).map(
    lambda drawn: np.array([0, 1, 2, 3, 4, *drawn], np.int64)  # every class occurs
)
SEEDS = st.integers(0, 2**31 - 1)


# -- order


@given(LABELS, SEEDS, st.integers(0, 1000), st.booleans(), st.sampled_from(["random", "first"]))
def test_order_is_a_permutation_balanced_as_far_as_the_smallest_class(labels, seed, replicate, balanced, draw):
    data = Data(source="digits", balanced=balanced, draw=draw)
    ranked = subset.order(len(labels), labels, data, seed, replicate)
    assert ranked.dtype == np.int64 and np.array_equal(np.sort(ranked), np.arange(len(labels)))
    assert np.array_equal(ranked, subset.order(len(labels), labels, data, seed, replicate))
    if balanced:
        smallest = np.bincount(labels).min()
        assert labels[ranked[: 5 * smallest]].tolist() == list(range(5)) * smallest
    if draw == "first":
        for label in range(5):
            members = ranked[labels[ranked] == label]
            assert np.array_equal(members, np.sort(members))


def test_order_is_what_it_was():
    """The draw is part of every result: these numbers must never change."""
    labels = np.arange(12) % 3
    data = Data(source="digits")
    assert subset.order(12, labels, data, 0, 0).tolist() == [9, 10, 5, 0, 1, 2, 3, 4, 8, 6, 7, 11]
    assert subset.order(12, None, data, 0, 0).tolist() == [2, 0, 1, 11, 4, 5, 6, 7, 8, 10, 3, 9]
    random = Data(source="digits", labels="random-5")
    assert subset.conditioning_labels(random, 0, 0, np.arange(12), None, 12).tolist() == [
        4,
        4,
        0,
        4,
        1,
        1,
        4,
        0,
        1,
        1,
        0,
        3,
    ]


def test_orders_differ_between_replicates_and_seeds():
    data = Data(source="digits")
    drawn = {tuple(subset.order(50, None, data, seed, r)) for seed in (0, 1, 2) for r in (0, 1, 2)}
    assert len(drawn) == 9


def test_first_is_file_order_in_every_replicate():
    data = Data(source="digits", draw="first")
    labels = np.array([1, 0, 0, 1, 1, 0])
    for replicate in (0, 5):
        assert subset.order(6, labels, data, 0, replicate).tolist() == [1, 0, 2, 3, 5, 4]
        assert subset.order(6, None, data, 0, replicate).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_class_is_drawn_alike_whatever_other_classes_are_used():
    few = subset.draw(digits(data={"classes": [3, 8]}), 40, 1)
    many = subset.draw(digits(data={"classes": [8, 0, 3]}), 60, 1)
    for one, other in ((0, 2), (1, 0)):
        assert np.array_equal(few.indices[one::2], many.indices[other::3])


@pytest.mark.parametrize("balanced", [True, False])
def test_order_draws_uniformly(balanced):
    """Each image of a class is first in its class about equally often (chi-squared, 11 and 3 degrees of freedom)."""
    labels = np.arange(12) % 3
    data = Data(source="digits", balanced=balanced)
    first = np.array([subset.order(12, labels, data, 7, r)[0] for r in range(1200)])
    counts = np.bincount(first, minlength=12)[:: 3 if balanced else 1]
    expected = 1200 / len(counts)
    assert ((counts - expected) ** 2 / expected).sum() < 31.3  # p = 0.001 for 11 degrees of freedom


# -- draw


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 174),
    st.integers(1, 174),
    st.integers(0, 3),
    st.sampled_from(["none", "true", "random-7"]),
    st.sampled_from(["random", "first"]),
)
def test_subsets_are_nested_balanced_and_apart_from_held_out(rounds, more, replicate, labels, draw):
    small, large = sorted((10 * rounds, 10 * more))
    run = digits(data={"labels": labels, "draw": draw, "held_out": 64})
    inner, outer = subset.draw(run, small, replicate), subset.draw(run, large, replicate)
    for field in ("images", "labels", "indices", "groups"):
        assert np.array_equal(getattr(outer, field)[:small], getattr(inner, field))
    everything = datasets.load(Data(source="digits"))
    assert np.array_equal(outer.images, everything.images[outer.indices])
    assert (np.bincount(everything.labels[outer.indices], minlength=10) == large // 10).all()
    assert len(outer.held_out) == min(64, 1797 - large) == len(outer.held_out_labels)
    assert not {image.tobytes() for image in outer.held_out} & {image.tobytes() for image in outer.images}


def test_held_out_images_are_balanced_and_the_same_for_all_sizes_that_leave_them():
    run = digits(data={"held_out": 100, "labels": "true"})
    small, large = subset.draw(run, 20, 0), subset.draw(run, 1640, 0)
    assert np.array_equal(small.held_out, large.held_out)
    assert (np.bincount(small.held_out_labels) == 10).all()
    assert len(subset.draw(run, 1740, 0).held_out) == 57  # the larger classes' rest
    assert subset.draw(digits(data={"held_out": 0}), 20, 0).held_out.shape == (0, 1, 8, 8)
    assert len(subset.draw(digits(data={"balanced": False}), 1797, 0).held_out) == 0


@given(st.integers(0, 40), st.integers(0, 20), st.integers(0, 30), st.data())
def test_held_out_positions(available, rest, count, data):
    n = data.draw(st.integers(0, available))
    positions = subset.held_out_positions(available, available + rest, n, count)
    assert len(set(positions.tolist())) == len(positions) == min(count, available + rest - n)
    assert all(n <= p < available + rest for p in positions)


def test_unlabelled_and_unbalanced_subsets(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.arange(7 * 16, dtype=np.uint8).reshape(7, 4, 4))
    drawn = subset.draw(Run.model_validate({"data": {"source": f"npz:{tmp_path}/a.npz"}}), 5, 0)
    assert drawn.images.shape == (5, 1, 4, 4) and drawn.held_out.shape == (2, 1, 4, 4)
    assert sorted([*drawn.indices, *(int(image[0, 0, 0]) // 16 for image in drawn.held_out)]) == list(range(7))
    assert drawn.label_count == 0 and not drawn.labels.any()
    assert len(subset.draw(digits(data={"balanced": False}), 1233, 0).images) == 1233


@pytest.mark.parametrize("n", [0, -10, 15, 1750])
def test_impossible_sizes(n):
    with pytest.raises(SettingsError, match=f"n = {n}: must be"):
        subset.draw(digits(), n, 0)


def test_negative_replicate():
    with pytest.raises(SettingsError, match="replicate = -1"):
        subset.draw(digits(), 10, -1)


# -- labels and duplicates


def test_label_modes():
    everything = datasets.load(Data(source="digits")).labels
    none, true, random, unique = (
        subset.draw(digits(data={"labels": labels}), 200, 2) for labels in ("none", True, "random-1000", "unique")
    )
    assert [s.label_count for s in (none, true, random, unique)] == [0, 10, 1000, 200]
    assert not none.labels.any() and not none.held_out_labels.any()
    assert np.array_equal(true.labels, everything[true.indices])
    assert np.array_equal(unique.labels, np.arange(200))
    assert np.array_equal(unique.held_out_labels, np.arange(256) % 200)
    assert random.labels.max() < 1000 and len(np.unique(random.labels)) > 150
    assert all(np.array_equal(none.images, s.images) for s in (true, random, unique))  # arms are paired
    assert all(s.labels.dtype == s.held_out_labels.dtype == np.int64 for s in (none, true, random, unique))


def test_random_labels_belong_to_the_stored_image():
    """An image keeps its label whatever the size, the classes and the place in the subset (held out too)."""
    known: dict[int, int] = {}
    for overrides, n in (({}, 100), ({}, 1000), ({"classes": [4, 1]}, 50), ({"balanced": False}, 700)):
        drawn = subset.draw(digits(data={"labels": "random-50", **overrides}), n, 0)
        for index, label in zip(drawn.indices.tolist(), drawn.labels.tolist(), strict=True):
            assert known.setdefault(index, label) == label
    everything = datasets.load(Data(source="digits"))
    where = {image.tobytes(): i for i, image in enumerate(everything.images)}
    drawn = subset.draw(digits(data={"labels": "random-50"}), 100, 0)
    for image, label in zip(drawn.held_out, drawn.held_out_labels.tolist(), strict=True):
        assert known.setdefault(where[image.tobytes()], label) == label


def test_random_labels_are_uniform_and_differ_between_replicates():
    data = Data(source="digits", labels="random-10")
    drawn = [subset.conditioning_labels(data, 0, r, np.arange(10_000), None, 10_000) for r in (0, 1)]
    for labels in drawn:
        assert ((np.bincount(labels, minlength=10) - 1000) ** 2 / 1000).sum() < 27.9  # p = 0.001, 9 degrees of freedom
    assert 0.08 < (drawn[0] == drawn[1]).mean() < 0.12


def test_true_labels_that_do_not_exist():
    with pytest.raises(SettingsError, match=r"data\.labels = 'true': digits has no labels"):
        subset.conditioning_labels(Data(source="digits", labels="true"), 0, 0, np.arange(3), None, 3)


@given(st.lists(st.integers(0, 6), min_size=0, max_size=30))
def test_duplicate_groups(kinds):
    images = np.random.default_rng(0).integers(0, 256, (7, 1, 3, 3), np.uint8)[np.array(kinds, int)]
    groups = subset.duplicate_groups(images)
    assert groups.dtype == np.int64
    assert groups.tolist() == [kinds.index(kind) for kind in kinds]


def test_digits_hold_no_duplicates():
    assert np.array_equal(subset.draw(digits(), 1740, 0).groups, np.arange(1740))


# -- what is usable, and faults


def facts(counts=(5, 7), side=8, images=None) -> Facts:
    shape = (1, side, side)
    return Facts(sum(counts) if counts else images, shape, counts, shape, counts)


@pytest.mark.parametrize(
    ("known", "balanced", "expected"),
    [
        (facts(), True, (2, 10)),
        (facts(), False, (1, 12)),
        (facts(None, images=9), True, (1, 9)),
        (facts((4,)), True, (1, 4)),
    ],
)
def test_usable(known, balanced, expected):
    assert subset.usable(known, Data(source="digits", balanced=balanced)) == expected


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
        ({"search": {"n_min": 11, "start": 12, "n_max": 19}}, "no multiple of 10, the number of classes, lies between"),
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
        ({"network": {"multipliers": [1, 1, 1, 1, 1]}}, "network.multipliers = [1, 1, 1, 1, 1]: 5 levels need"),
        (
            {"network": {"attention": [4, 16]}},
            "network.attention = [4, 16]: no level has resolution 16; allowed: 8, 4, 2",
        ),
    ],
)
def test_faults(overrides, words):
    found = faults(digits(**overrides))
    assert any(words in line for line in found), found
    assert not any("\n" in line for line in found)


def test_network_is_not_checked_for_the_optimum():
    run = digits(network={"attention": [16], "multipliers": [1] * 6}, diffusion={"denoiser": "optimum"})
    assert faults(run) == []


def test_true_labels_need_labels(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((1000, 8, 8), np.uint8))
    run = digits(data={"source": f"npz:{tmp_path}/a.npz", "labels": "true"}, search={"n_max": 500})
    assert faults(run) == [f"data.labels = 'true': {run.data.source} has no labels; use none, unique or random-K"]
    with pytest.raises(SettingsError, match="has no labels"):
        subset.draw(run, 10, 0)


# -- files and stage


def equal(one: subset.Subset, other: subset.Subset) -> bool:
    return all(np.array_equal(value, getattr(other, name)) for name, value in vars(one).items())


def test_saved_and_loaded(tmp_path):
    drawn = subset.draw(digits(data={"labels": "unique"}), 30, 0)
    for name in ("a.npz", "b.npz"):
        subset.save(tmp_path / name, drawn)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = subset.load(tmp_path / "a.npz")
    assert equal(drawn, loaded) and type(loaded.label_count) is int


def test_damaged_subsets(tmp_path):
    path = tmp_path / "subset.npz"
    drawn = subset.draw(digits(), 30, 0)
    with pytest.raises(DataError, match="cannot be read"):
        subset.load(path)
    subset.save(path, drawn)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-30], whole[: len(whole) // 2], whole[:400] + b"????" + whole[404:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"subset\.npz: damaged"):
            subset.load(path)
    for change in (
        {"labels": drawn.labels[:-1]},
        {"groups": drawn.groups.astype(np.int32)},
        {"images": drawn.images[:, 0]},
        {"images": drawn.images[0, 0, 0, 0]},
        {"held_out": drawn.held_out[:, :, :4]},
        {"label_count": np.zeros(2, np.int64)},
    ):
        np.savez(path, **(vars(drawn) | change))
        with pytest.raises(DataError, match=r"subset\.npz: .* not of a subset"):
            subset.load(path)
    np.savez(path, images=drawn.images)
    with pytest.raises(DataError, match="must hold an array 'labels'; it holds images"):
        subset.load(path)


def test_stage_writes_the_drawn_subset(tmp_path):
    path = tmp_path / "new" / "subset.npz"
    command = [sys.executable, "-X", "importtime", "-m", "emm.subset", "--settings", json.dumps(DIGITS)]
    command += ["--n", "100", "--replicate", "3", "--output", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == ""
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "numpy" in imported and not imported & {"torch", "torchvision", "sklearn", "scipy", "pandas", "matplotlib"}
    assert equal(subset.load(path), subset.draw(Run.model_validate(DIGITS), 100, 3))
    assert sorted(p.name for p in path.parent.iterdir()) == ["settings.yaml", "subset.npz"]


@pytest.mark.parametrize(
    ("text", "n", "words"),
    [
        (json.dumps(DIGITS), "15", "n = 15: must be a positive multiple of 10"),
        (json.dumps(DIGITS), "2000", "n = 2000: must be at most 1740"),
        (
            '{"data": {"source": "digits", "resolution": 9, "classes": [12]}}',
            "10",
            "; data.classes = [12]: must be among",
        ),
        ('{"data": {"source": "npz:gone.npz"}}', "10", "gone.npz: cannot be read (No such file or directory)"),
        ('{"data": {"source": "cifar10", "root": "gone"}}', "10", "cifar-10-batches-py: not found; set data.download"),
        ('{"data": {"source": "digitz"}}', "10", "data.source = 'digitz'"),
        ('{"data": {"held": 1}}', "10", "data.held: is not a key of data; did you mean 'held_out'?"),
        ("[]", "10", "must be a mapping of settings"),
        ("{", "10", "--settings: is not JSON"),
    ],
)
def test_stage_refuses_in_one_line_and_writes_nothing(tmp_path, monkeypatch, capfd, text, n, words):
    monkeypatch.chdir(tmp_path)
    command = ["emm.subset", "--settings", text, "--n", n, "--replicate", "0", "--output", "out/subset.npz"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stop:
        stage.command(subset.main)
    assert stop.value.code == 1
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and words in err
    assert list(tmp_path.iterdir()) == []


def test_stage_exit_status_and_unwritable_output(tmp_path):
    (tmp_path / "file").write_text("in the way")
    command = [sys.executable, "-m", "emm.subset", "--settings", json.dumps(DIGITS), "--n", "10", "--replicate", "0"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "file" / "s.npz")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert (tmp_path / "file").read_text() == "in the way"
