"""Repeated images: which they are, what repeats with them, and impossible ones in one line."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digits import digits, faults
from emmeter.data import datasets, ordering, subset
from emmeter.errors import SettingsError
from emmeter.settings.duplicates import Duplicates
from emmeter.settings.sections import Data

SHARES = st.sampled_from([0.05, 0.1, 0.25, "1/3", 0.5, 0.9, 1])


def repeating(share, times: int, **data) -> dict:
    return {"duplicates": {"share": share, "times": times}, **data}


def fields(drawn: subset.Subset) -> dict[str, np.ndarray]:
    return {name: getattr(drawn, name) for name in ("images", "labels", "indices", "groups")}


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 40),
    SHARES,
    st.integers(2, 12),
    st.integers(0, 3),
    st.sampled_from(["none", "true", "random-7", "unique"]),
)
def test_the_images_come_first_and_repetitions_follow_with_all_that_belongs_to_them(
    tens, share, times, replicate, labels
):
    n = 10 * tens
    plain = subset.draw(digits(data={"labels": labels}), n, replicate)
    drawn = subset.draw(digits(data=repeating(share, times, labels=labels)), n, replicate)
    wanted = Data(source="digits", duplicates={"share": share, "times": times}).duplicates  # type: ignore[arg-type]
    assert len(drawn.images) == wanted.entries(n)
    assert drawn.label_count == plain.label_count
    assert np.array_equal(drawn.held_out, plain.held_out)
    for name, values in fields(drawn).items():
        assert values.dtype == getattr(plain, name).dtype
        assert np.array_equal(values[:n], getattr(plain, name))
    where = {index: position for position, index in enumerate(plain.indices.tolist())}
    first = np.array([where[index] for index in drawn.indices.tolist()])
    for values in fields(drawn).values():
        assert np.array_equal(values, values[first])
    assert np.array_equal(drawn.groups, first)  # all digits differ
    counts = np.bincount(first)
    assert sorted(set(counts.tolist()) - {1}) == [times]
    assert (counts == times).sum() == wanted.repeated(n)


@settings(deadline=None)
@given(st.integers(1, 10**6), st.floats(0.001, 1), st.integers(2, 10_000))
def test_the_number_of_repeated_images_is_the_share_rounded(n, share, times):
    wanted = Duplicates(share=share, times=times)
    assert abs(wanted.repeated(n) - n * share) <= 0.5 + 1e-6
    assert wanted.entries(n) == n + wanted.repeated(n) * (times - 1)


@pytest.mark.parametrize(("share", "n", "count"), [(0.1, 15, 2), (0.1, 14, 1), (0.5, 1, 1), (1, 7, 7), (0.3, 10, 3)])
def test_halves_are_rounded_up_and_shares_are_exact(share, n, count):
    assert Duplicates(share=share, times=2).repeated(n) == count


def test_nothing_is_repeated_by_default():
    assert Duplicates().entries(123) == 123
    assert str(Duplicates()) == "none" and str(Duplicates(share=0.1, times=10)) == "10 % x 10"


def test_a_larger_share_repeats_further_images_whatever_the_number_of_repetitions():
    asked = ((0.1, 9), (0.3, 2), (0.5, 5), (1, 3))
    drawn = [subset.draw(digits(data=repeating(share, times)), 200, 1) for share, times in asked]
    chosen = [set(each.indices[200:].tolist()) for each in drawn]
    assert [len(each) for each in chosen] == [20, 60, 100, 200]
    assert all(inner < outer for inner, outer in pairwise(chosen))


def test_an_image_has_one_random_number_in_all_subsets_of_a_replicate():
    """So of the images of a subset, those that a larger subset repeats are among the first to be repeated."""
    small, large = (subset.draw(digits(data=repeating(0.5, 2)), n, 0) for n in (100, 1000))
    kept = set(small.indices[100:].tolist()) & set(large.indices[1000:].tolist())
    assert len(kept) > 40  # of 50; independent choices would keep about 25


def test_which_images_are_repeated_differs_between_replicates_and_seeds():
    data = Data(source="digits", duplicates=Duplicates(share=0.5, times=2))
    chosen = {tuple(ordering.repeated(data, seed, r, np.arange(40))) for seed in (0, 1) for r in (0, 1, 2)}
    assert len(chosen) == 6


def test_repeated_images_are_what_they_were():
    """The choice is part of every result: these numbers must never change."""
    data = Data(source="digits", duplicates=Duplicates(share=0.25, times=2))
    assert ordering.repeated(data, 0, 0, np.arange(20)).tolist() == [0, 1, 2, 10, 16]


def test_repeated_images_do_not_depend_on_the_class():
    """Chi-squared with 9 degrees of freedom over 4,000 repeated images of balanced classes; p = 0.001."""
    everything = datasets.load(Data(source="digits")).labels
    assert everything is not None
    drawn = [subset.draw(digits(data=repeating(0.1, 2)), 1000, replicate) for replicate in range(40)]
    counts = np.bincount(np.concatenate([everything[each.indices[1000:]] for each in drawn]), minlength=10)
    assert ((counts - 400) ** 2 / 400).sum() < 27.9


def test_repeated_images_of_a_mixture_come_from_both_sources():
    """Both choices are even along the order; their shares must not meet by chance of the same numbers."""
    mixture = {"classes": [0, 1], "mixture": "digits", "mixture_classes": [2, 3], "mixture_share": 0.5}
    drawn = subset.draw(digits(data=repeating(0.1, 2, **mixture)), 300, 0)
    second = drawn.indices[300:] >= 1797
    assert len(second) == 30 and 5 < second.sum() < 25


def test_images_that_are_equal_as_stored_share_a_group_with_the_repetitions(tmp_path):
    images = np.repeat(np.arange(4, dtype=np.uint8), 16).reshape(4, 4, 4)[[0, 1, 2, 3, 3, 3]]
    np.savez(tmp_path / "a.npz", images=images)
    setup = digits(data=repeating(1, 2, source=f"npz:{tmp_path}/a.npz", draw="first", held_out=0))
    drawn = subset.draw(setup, 6, 0)
    assert drawn.groups.tolist() == [0, 1, 2, 3, 3, 3] * 2


# -- faults


def test_a_share_that_repeats_no_image_of_the_smallest_set_is_one_line():
    line = "data.duplicates.share = 0.01: repeats none of N = 20 images: must be at least 0.025"
    setup = digits(data=repeating(0.01, 5))
    assert faults(setup) == [line]
    with pytest.raises(SettingsError) as error:
        subset.draw(setup, 20, 0)
    assert str(error.value) == line
    assert faults(digits(data=repeating(0.025, 5))) == []
    grid = digits(data=repeating(0.01, 5), search={"rule": "grid", "grid": [40, 80]})
    assert faults(grid) == ["data.duplicates.share = 0.01: repeats none of N = 40 images: must be at least 0.0125"]


def test_repetitions_that_no_memory_holds_are_one_line(monkeypatch):
    monkeypatch.setattr("emmeter.data.feasibility.MOST_BYTES", 2**30)
    (line,) = faults(digits(data=repeating(1, 10_000)))
    assert line == (
        "data.duplicates.times = 10000: makes 17,400,000 entries of N = 1,740 images, 1 GiB of pixels: "
        "at most 1 GiB are allowed"
    )
    assert faults(digits(data=repeating(0.5, 10_000))) == []
