"""Drawing subsets: nested, balanced, reproducible, and refused before anything is written when impossible."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digits import DIGITS, digits, faults
from emmeter.data import datasets, feasibility, ordering, subset
from emmeter.data.images import Facts
from emmeter.errors import DataError, SettingsError
from emmeter.settings.sections import Data, Setup
from one_run import call, messages

SMALL = {"n_min": 2, "n_max": 10, "start": 2}  # a search of sizes that few images have


LABELS = st.lists(st.integers(0, 4), min_size=5, max_size=60).map(
    lambda drawn: np.array([0, 1, 2, 3, 4, *drawn], np.int64)  # every class occurs
)
SEEDS = st.integers(0, 2**31 - 1)


# -- order


@given(LABELS, SEEDS, st.integers(0, 1000), st.booleans(), st.sampled_from(["random", "first"]))
def test_order_is_a_permutation_balanced_as_far_as_the_smallest_class(labels, seed, replicate, balanced, draw):
    data = Data(source="digits", balanced=balanced, draw=draw)
    ranked = ordering.order(len(labels), labels, data, seed, replicate)
    assert ranked.dtype == np.int64 and np.array_equal(np.sort(ranked), np.arange(len(labels)))
    assert np.array_equal(ranked, ordering.order(len(labels), labels, data, seed, replicate))
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
    assert ordering.order(12, labels, data, 0, 0).tolist() == [9, 10, 5, 0, 1, 2, 3, 4, 8, 6, 7, 11]
    assert ordering.order(12, None, data, 0, 0).tolist() == [2, 0, 1, 11, 4, 5, 6, 7, 8, 10, 3, 9]
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
    drawn = {tuple(ordering.order(50, None, data, seed, r)) for seed in (0, 1, 2) for r in (0, 1, 2)}
    assert len(drawn) == 9


def test_first_is_file_order_in_every_replicate():
    data = Data(source="digits", draw="first")
    labels = np.array([1, 0, 0, 1, 1, 0])
    for replicate in (0, 5):
        assert ordering.order(6, labels, data, 0, replicate).tolist() == [1, 0, 2, 3, 5, 4]
        assert ordering.order(6, None, data, 0, replicate).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_class_is_drawn_alike_whatever_other_classes_are_used():
    few = subset.draw(digits(data={"classes": [3, 8]}), 40, 1)
    many = subset.draw(digits(data={"classes": [8, 0, 3]}), 60, 1)
    for first, other in ((0, 2), (1, 0)):
        assert np.array_equal(few.indices[first::2], many.indices[other::3])


@pytest.mark.parametrize("balanced", [True, False])
def test_order_draws_uniformly(balanced):
    """Each image of a class is first in its class about equally often (chi-squared, 11 and 3 degrees of freedom)."""
    labels = np.arange(12) % 3
    data = Data(source="digits", balanced=balanced)
    first = np.array([ordering.order(12, labels, data, 7, r)[0] for r in range(1200)])
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
    setup = digits(data={"labels": labels, "draw": draw, "held_out": 64})
    inner, outer = subset.draw(setup, small, replicate), subset.draw(setup, large, replicate)
    for field in ("images", "labels", "indices", "groups"):
        assert np.array_equal(getattr(outer, field)[:small], getattr(inner, field))
    everything = datasets.load(Data(source="digits"))
    assert np.array_equal(outer.images, everything.images[outer.indices])
    assert (np.bincount(everything.labels[outer.indices], minlength=10) == large // 10).all()
    assert len(outer.held_out) == min(64, 1797 - large) == len(outer.held_out_labels)
    assert not {image.tobytes() for image in outer.held_out} & {image.tobytes() for image in outer.images}


def test_held_out_images_are_balanced_and_the_same_for_all_sizes_that_leave_them():
    setup = digits(data={"held_out": 100, "labels": "true"})
    small, large = subset.draw(setup, 20, 0), subset.draw(setup, 1640, 0)
    assert np.array_equal(small.held_out, large.held_out)
    assert (np.bincount(small.held_out_labels) == 10).all()
    assert len(subset.draw(setup, 1740, 0).held_out) == 57  # the larger classes' rest
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
    drawn = subset.draw(Setup.model_validate({"data": {"source": f"npz:{tmp_path}/a.npz"}}), 5, 0)
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
    """An image keeps its label for every size, selection of classes and position in the subset (held out too)."""
    seen: dict[int, int] = {}
    for overrides, n in (({}, 100), ({}, 1000), ({"classes": [4, 1]}, 50), ({"balanced": False}, 700)):
        drawn = subset.draw(digits(data={"labels": "random-50", **overrides}), n, 0)
        for index, label in zip(drawn.indices.tolist(), drawn.labels.tolist(), strict=True):
            assert seen.setdefault(index, label) == label
    everything = datasets.load(Data(source="digits"))
    where = {image.tobytes(): i for i, image in enumerate(everything.images)}
    drawn = subset.draw(digits(data={"labels": "random-50"}), 100, 0)
    for image, label in zip(drawn.held_out, drawn.held_out_labels.tolist(), strict=True):
        assert seen.setdefault(where[image.tobytes()], label) == label


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


# -- files and stage


def equal(first: subset.Subset, other: subset.Subset) -> bool:
    return all(np.array_equal(value, getattr(other, name)) for name, value in vars(first).items())


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
    stored = {name: value for name, value in vars(drawn).items() if value is not None}
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
        np.savez(path, **(stored | change))
        with pytest.raises(DataError, match=r"subset\.npz: .* not of a subset"):
            subset.load(path)
    np.savez(path, images=drawn.images)
    with pytest.raises(DataError, match="must hold an array 'labels'; it holds images"):
        subset.load(path)


def test_stage_writes_the_drawn_subset(tmp_path):
    path = tmp_path / "new" / "subset.npz"
    command = [sys.executable, "-X", "importtime", "-m", "emmeter.stages.subset", "--settings", json.dumps(DIGITS)]
    command += ["--n", "100", "--replicate", "3", "--output", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == ""
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "numpy" in imported and not imported & {"torch", "torchvision", "sklearn", "scipy", "pandas", "matplotlib"}
    assert equal(subset.load(path), subset.draw(Setup.model_validate(DIGITS), 100, 3))
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "SHA256SUMS", "settings.yaml", "subset.json", "subset.npz",
    ]  # fmt: skip


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
    options = ["--settings", text, "--n", n, "--replicate", "0", "--output", "out/subset.npz"]
    assert call("emmeter.stages.subset", *options) == 1
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and words in err
    assert list(tmp_path.iterdir()) == []


def test_stage_exit_status_and_unwritable_output(tmp_path):
    (tmp_path / "file").write_text("in the way")
    command = [
        sys.executable,
        "-m",
        "emmeter.stages.subset",
        "--settings",
        json.dumps(DIGITS),
        "--n",
        "10",
        "--replicate",
        "0",
    ]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "file" / "s.npz")], capture_output=True, text=True, check=False
    )
    lines = messages(done.stderr)
    assert done.returncode == 1 and len(lines) == 1 and lines[0].startswith("error: ")
    assert (tmp_path / "file").read_text() == "in the way"


# -- mixtures


def written(folder, name: str, count: int, side: int = 4, labels=None) -> str:
    """The source of a new .npz whose image i holds i in every pixel."""
    images = np.repeat(np.arange(count, dtype=np.uint8), side * side).reshape(count, side, side)
    np.savez(folder / name, images=images, **({} if labels is None else {"labels": np.array(labels)}))
    return f"npz:{folder / name}"


def mixture_of(first: str, second: str | None, share: float | str, **data) -> Setup:
    return Setup.model_validate({"data": {"source": first, "mixture": second, "mixture_share": share, **data}})


DIGIT_MIXTURE = {"classes": [3], "mixture": "digits", "mixture_classes": [8, 1]}  # 183 threes; 174 and 182 others

HUNDREDTHS = st.integers(0, 100).map(lambda percent: Fraction(percent, 100))


@given(st.integers(0, 60), st.integers(1, 60), st.integers(0, 60), st.integers(1, 60), SEEDS)
def test_every_start_of_a_mixture_has_the_share(first, second, over, under, seed):
    share = min(Fraction(over, under), Fraction(1))
    random = np.random.default_rng(seed)
    front, other = random.permutation(first), random.permutation(second)
    ranked = ordering.mixed(front, other, share)
    assert ranked.dtype == np.int64
    for n in range(len(ranked) + 1):
        assert (ranked[:n] >= first).sum() == math.floor(n * share)
    chosen = ranked >= first  # each source in its own order, none twice
    assert np.array_equal(ranked[chosen], other[: chosen.sum()] + first)
    assert np.array_equal(ranked[~chosen], front[: (~chosen).sum()])
    longer = len(ranked) + 1  # one more would exhaust a source
    assert math.floor(longer * share) > second or longer - math.floor(longer * share) > first


@given(st.integers(0, 100), st.integers(1, 100), HUNDREDTHS)
def test_available_sizes_of_a_mixture_can_all_be_drawn(first, second, share):
    """And the share is kept beyond them at most until one more image of either source."""
    ranked = ordering.mixed(np.arange(first), np.arange(second), share)
    data = Data(source="digits", mixture="digits", mixture_share=float(share))
    facts = Facts(first, (1, 8, 8), None, (1, 8, 8), None)
    facts = replace(facts, second=replace(facts, images=second)) if share else facts
    multiple, available = feasibility.usable(facts, data)
    assert multiple == 1
    assert available <= len(ranked)
    if share:
        assert available * share <= second < (available + 1) * share or available * (1 - share) <= first < (
            available + 1
        ) * (1 - share)


@pytest.mark.parametrize(
    ("share", "n", "expected"),
    [
        (0.2, 5, 1),
        (0.2, 2000, 400),
        (0.8, 5, 4),
        (0.8, 2000, 1600),  # of the first source 400, where the reference's int(2000 * (1 - 0.8)) is 399
        (0.1, 10, 1),
        (0.3, 10, 3),
        (0.7, 10, 7),
        (0.29, 100, 29),
        (0.57, 100, 57),
        ("1/3", 3, 1),
        ("1/3", 300, 100),
        ("2/3", 300, 200),
        ("1/7", 700, 100),
        (1e-12, 2000, 0),
        (0.123456789, 3000, 370),
    ],
)
def test_shares_are_the_numbers_that_were_written(share, n, expected):
    data = Data.model_validate({"source": "digits", "mixture": "digits", "mixture_share": share})
    ranked = ordering.mixed(np.arange(3000), np.arange(3000), ordering.mixture_share(data))
    assert len(ranked) >= 3000
    assert (ranked[:n] >= 3000).sum() == expected


@pytest.mark.parametrize("share", ["1/3", 0.3333333333333333, 0.1234567890123456, 0.9999999999999999])
def test_shares_of_many_digits_do_not_overflow(share):
    """Their numerator times a large set's size is beyond int64."""
    data = Data.model_validate({"source": "digits", "mixture": "digits", "mixture_share": share})
    chosen = ordering.mixed(np.arange(50_000), np.arange(50_000), ordering.mixture_share(data)) >= 50_000
    assert len(chosen) >= 50_000
    steps = np.arange(len(chosen) + 1)
    assert np.abs(np.concatenate([[0], np.cumsum(chosen)]) - steps * data.mixture_share).max() <= 1.001


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 183), st.integers(1, 183), st.integers(0, 3), st.sampled_from(["0.2", "0.5", "0.8", "1/3", "1"]))
def test_mixtures_are_nested_and_have_their_share(first, other, replicate, share):
    small, large = sorted((first, other))
    setup = digits(data=DIGIT_MIXTURE | {"mixture_share": share, "held_out": 20})
    inner, outer = subset.draw(setup, small, replicate), subset.draw(setup, large, replicate)
    for field in ("images", "labels", "indices", "groups"):
        assert np.array_equal(getattr(outer, field)[:small], getattr(inner, field))
    everything = datasets.load(Data(source="digits"))
    second = outer.indices >= 1797
    assert second.sum() == math.floor(large * Fraction(share))
    stored = outer.indices - 1797 * second
    assert np.array_equal(outer.images, everything.images[stored])
    classes = everything.labels[stored]
    assert set(classes[~second]) <= {3}
    assert np.array_equal(classes[second], np.resize([8, 1], second.sum()))  # balanced within the second source
    assert not {image.tobytes() for image in outer.held_out} & {image.tobytes() for image in outer.images}


def test_mixtures_differ_between_replicates_and_share_their_sources_draws():
    """Each source enters in the order in which it would be drawn alone: arms of other shares see the same images."""
    drawn = {}
    for share in ("0.2", "0.5", "0.8"):
        for replicate in (0, 1):
            part = subset.draw(digits(data=DIGIT_MIXTURE | {"mixture_share": share}), 100, replicate).indices
            drawn[share, replicate] = part[part < 1797].tolist(), (part[part >= 1797] - 1797).tolist()
    for replicate in (0, 1):
        alone = subset.draw(digits(data={"classes": [3]}), 100, replicate).indices.tolist()
        other = subset.draw(digits(data={"classes": [8, 1]}), 100, replicate).indices.tolist()
        for share in ("0.2", "0.5", "0.8"):
            first, second = drawn[share, replicate]
            assert (first, second) == (alone[: len(first)], other[: len(second)])
    assert drawn["0.5", 0] != drawn["0.5", 1]


def test_no_share_is_no_mixture(tmp_path):
    """Every bit is that of the first source alone; the second one is not even looked for."""
    for labels in ("none", "true", "random-7", "unique"):
        without = digits(data={"labels": labels, "classes": [1, 2]})
        at_zero = digits(data={"labels": labels, "classes": [1, 2], "mixture": f"npz:{tmp_path}/none.npz"})
        assert at_zero.data.mixture_share == 0
        assert equal(subset.draw(without, 60, 1), subset.draw(at_zero, 60, 1))
        facts = datasets.describe(at_zero.data)
        assert feasibility.usable(facts, at_zero.data) == (2, 354)
        assert feasibility.faults(at_zero, facts) == feasibility.faults(without, datasets.describe(without.data))


def test_the_whole_share_is_the_second_source_alone():
    whole = subset.draw(digits(data=DIGIT_MIXTURE | {"mixture_share": 1}), 100, 2)
    alone = subset.draw(digits(data={"classes": [8, 1]}), 100, 2)
    assert np.array_equal(whole.images, alone.images)
    assert np.array_equal(whole.indices, alone.indices + 1797)
    assert subset.draw(digits(data=DIGIT_MIXTURE | {"mixture_share": 1}), 356, 0).images.shape == (356, 1, 8, 8)


def test_positions_in_the_second_source_follow_all_stored_images_of_the_first(tmp_path):
    first = written(tmp_path, "a.npz", 10, labels=[0, 1] * 5)
    second = written(tmp_path, "b.npz", 6, labels=[0, 1, 2] * 2)
    bare = written(tmp_path, "c.npz", 7)
    drawn = subset.draw(mixture_of(first, second, 0.5, classes=[1], mixture_classes=[2]), 4, 0)
    assert sorted(drawn.indices[1::2].tolist()) == [12, 15]  # 10 stored, of which class 1 has 5
    assert set(drawn.indices[::2].tolist()) <= {1, 3, 5, 7, 9}
    assert drawn.images[:, 0, 0, 0].tolist() == [i if i < 10 else i - 10 for i in drawn.indices]
    drawn = subset.draw(mixture_of(bare, second, 0.5), 12, 0)
    assert sorted(i for i in drawn.indices.tolist() if i >= 7) == [7, 8, 9, 10, 11, 12]
    assert drawn.images[:, 0, 0, 0].tolist() == [i if i < 7 else i - 7 for i in drawn.indices]


def test_images_in_both_sources_are_duplicates(tmp_path):
    first, second = written(tmp_path, "a.npz", 4), written(tmp_path, "b.npz", 4)
    drawn = subset.draw(mixture_of(first, second, 0.5), 8, 0)
    values = drawn.images[:, 0, 0, 0].tolist()
    assert drawn.groups.tolist() == [values.index(value) for value in values]
    assert len(set(drawn.groups.tolist())) == 4


def test_labels_of_mixtures(tmp_path):
    first, second = written(tmp_path, "a.npz", 30), written(tmp_path, "b.npz", 30)
    none, random, unique = (
        subset.draw(mixture_of(first, second, 0.5, labels=labels), 40, 0) for labels in ("none", "random-100", "unique")
    )
    assert [s.label_count for s in (none, random, unique)] == [0, 100, 40]
    assert not none.labels.any()
    assert unique.labels.tolist() == list(range(40))
    label = dict(zip(random.indices.tolist(), random.labels.tolist(), strict=True))
    pairs = [(label[i], label[i + 30]) for i in range(30) if i in label and i + 30 in label]
    assert len(pairs) > 5
    assert sum(a == b for a, b in pairs) < 3  # the same position in two sources is not the same image


@pytest.mark.parametrize(
    ("share", "available"),
    [(0.1, 33), (0.25, 40), (0.5, 20), (0.8, 12), (1, 10), ("1/3", 30), ("2/3", 15)],
)
def test_sizes_of_a_mixture_end_where_a_source_is_exhausted(tmp_path, share, available):
    """30 images and 10 of the second source; classes of the two make no multiples."""
    first = written(tmp_path, "a.npz", 30, labels=[0, 1, 2] * 10)
    setup = mixture_of(first, written(tmp_path, "b.npz", 10), share)
    facts = datasets.describe(setup.data)
    assert feasibility.usable(facts, setup.data) == (1, available)
    for n in (1, available):
        drawn = subset.draw(setup, n, 0)
        assert len(drawn.images) == n == len(set(drawn.indices.tolist()))
    with pytest.raises(SettingsError, match=f"n = {available + 1}: must be at most {available}, the largest subset"):
        subset.draw(setup, available + 1, 0)
    searched = Setup.model_validate(setup.model_dump() | {"search": {"rule": "grid", "grid": [7, available + 1]}})
    (line,) = (str(fault) for fault in feasibility.faults(searched, facts) if fault.key.startswith("search."))
    assert line.startswith(f"search.grid = [7, {available + 1}]: must be at most {available}")


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"mixture_share": 0.2}, "data.mixture_share = 0.2: needs a second source in data.mixture"),
        (
            DIGIT_MIXTURE | {"mixture_share": 0.5, "labels": "true"},
            "data.labels = 'true': the classes of a mixture are those of two data sets; use another mode",
        ),
        (
            {"mixture": "mnist", "mixture_share": 0.5},
            "data.mixture = 'mnist': its images have shape (1, 28, 28), those of digits (1, 8, 8); set data.resolution",
        ),
        (
            {"mixture": "cifar10", "mixture_share": 0.5, "resolution": 8},  # grey and coloured
            "data.mixture = 'cifar10': its images have shape (3, 8, 8), those of digits (1, 8, 8); set data.resolution",
        ),
        (
            DIGIT_MIXTURE | {"mixture_share": 0.5, "mixture_classes": [1, 10]},
            "data.mixture_classes = [1, 10]: must be among 0 to 9 for digits",
        ),
        (
            DIGIT_MIXTURE | {"mixture_share": 0.5, "mixture_classes": [1, 1]},
            "data.mixture_classes = [1, 1]: must name at least one class, and none twice",
        ),
    ],
)
def test_impossible_mixtures_are_refused_in_one_line(data, line):
    setup = digits(data=data)
    assert faults(setup) == [line]
    with pytest.raises(SettingsError) as error:
        subset.draw(setup, 10, 0)
    assert str(error.value) == line


def test_sources_of_two_shapes_mix_at_one_resolution(tmp_path):
    np.savez(tmp_path / "large.npz", images=np.random.default_rng(0).integers(0, 256, (9, 16, 16), np.uint8))
    run = mixture_of(written(tmp_path, "a.npz", 9, side=8), f"npz:{tmp_path}/large.npz", 0.5, resolution=4)
    drawn = subset.draw(run, 10, 0)
    large = datasets.load(Data(source=f"npz:{tmp_path}/large.npz", resolution=4))
    assert drawn.images.shape == (10, 1, 4, 4)
    assert np.array_equal(drawn.images[1::2], large.images[drawn.indices[1::2] - 9])


def test_a_second_source_that_is_missing_is_named(tmp_path):
    run = mixture_of(written(tmp_path, "a.npz", 9), f"npz:{tmp_path}/none.npz", 0.5)
    with pytest.raises(DataError, match=r"none\.npz: cannot be read"):
        subset.draw(run, 4, 0)


def test_a_subset_without_two_different_images_stops_before_its_training(tmp_path, monkeypatch, capsys):
    """Here they are equal only at the size at which they are used."""
    monkeypatch.chdir(tmp_path)
    images = np.zeros((4, 8, 8), np.uint8)
    images[0, ::2], images[1, 1::2], images[2, :, ::2], images[3, :, 1::2] = 200, 200, 200, 200
    np.savez("a.npz", images=images)
    options = {"settings": json.dumps({"data": {"source": "npz:a.npz", "resolution": 1}}), "n": 4, "replicate": 0}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    assert call("emmeter.stages.subset", *words, "--output", "out/subset.npz") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "error: data.source = 'npz:a.npz': the 4 images of replicate 0 are all the same at 1x1 pixels"
    )
    assert not (tmp_path / "out").exists()
