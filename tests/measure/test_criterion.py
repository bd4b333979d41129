"""The criterion against brute force in integers, and the score stage from samples to ratios."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from emmeter.data.subset import Subset, duplicate_groups, save
from emmeter.errors import StageError
from emmeter.files.npz import write_npz
from emmeter.files.scores import read_gallery
from emmeter.files.writing import write_json
from emmeter.measure import engines
from emmeter.measure.criterion import Neighbours, mean_distance, memorized, mirrored_neighbours, neighbours
from emmeter.measure.engines import SLACK
from emmeter.measure.estimate import wilson
from emmeter.settings.validation import read_setup
from emmeter.stages.score import GALLERY, count_copies, even_ranks
from one_run import call, messages

VECTORS = Path(__file__).parents[1] / "vectors"


@pytest.fixture(autouse=True, scope="module", params=[engines.PIXELS, engines.FLOATS, engines.FAISS, engines.PRODUCTS],
                ids=lambda engine: engine.name)  # fmt: skip
def engine(request):
    """Every test of this module goes through each of the ways in which neighbours are found."""
    engine = request.param
    if engine is engines.PRODUCTS and engines.fault(engine, 64) is not None:
        pytest.skip("this processor multiplies bytes wrongly, and integer products do not serve")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "engines", lambda *arguments: iter([engine]))
        yield engine.name


def distances(generated: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(m, N) exact squared distances."""
    difference = generated.reshape(len(generated), 1, -1).astype(np.int64) - train.reshape(1, len(train), -1)
    return (difference**2).sum(axis=2)


def search(generated: np.ndarray, train: np.ndarray, k: int = 10) -> Neighbours:
    return neighbours(generated, train, duplicate_groups(train), k)


def near(base: np.ndarray, count: int, flips: int, random: np.random.Generator) -> np.ndarray:
    """`count` copies of an image with `flips` pixels changed by one grey level."""
    copies = np.repeat(base.reshape(1, -1), count, axis=0).astype(int)
    for row in copies:
        place = random.choice(copies.shape[1], flips, replace=False)
        row[place] += np.where(row[place] == 255, -1, np.where(row[place] == 0, 1, random.choice([-1, 1], flips)))
    return copies.reshape(count, *base.shape).astype(np.uint8)


def check_against_brute_force(generated: np.ndarray, train: np.ndarray, k: int) -> None:
    """Distances, indices, copies, and the criterion under both rules and several thresholds."""
    groups = duplicate_groups(train)
    found = neighbours(generated, train, groups, k)
    every = distances(generated, train)
    distinct, counts = np.unique(groups, return_counts=True)
    exact = np.sort(every[:, distinct], axis=1)[:, :k]
    assert np.array_equal(found.squared, exact)
    assert np.array_equal(np.take_along_axis(every, found.indices, 1), exact)
    assert np.isin(found.indices, distinct).all()
    for row, squared in zip(found.indices, found.squared, strict=True):
        assert len(set(row)) == len(row)
        assert all(a < b for a, b, same in zip(row, row[1:], squared[1:] == squared[:-1], strict=False) if same)
    assert np.array_equal(found.copies, counts[np.searchsorted(distinct, found.indices[:, 0])])
    two = np.sort(every, axis=1)[:, :2]  # the paper's rule: duplicates are neighbours of each other
    for numerator, denominator in [(1, 3), (1, 2), (1, 5), (9, 10)]:
        ours = memorized(found, numerator / denominator)
        assert np.array_equal(ours, exact[:, 0] * denominator**2 < exact[:, 1] * numerator**2)
        paper = memorized(found, numerator / denominator, distinct=False)
        assert np.array_equal(paper, two[:, 0] * denominator**2 < two[:, 1] * numerator**2)


# Reference


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(VECTORS / "criterion_digits64.npz") as archive:
        return {name: archive[name] for name in archive.files}


@pytest.mark.parametrize("k", [2, 10, 64])  # 2: a few candidates where sets are large; 64: all of them
def test_criterion_equals_reference(reference, k):
    train, samples = reference["train_uint8"], reference["samples_uint8"]
    found = search(samples, train, k)
    assert np.array_equal(memorized(found), reference["memorized"])
    assert int(memorized(found).sum()) == 41
    rms = np.sqrt(found.squared[:, :2] / 64)
    assert np.abs(rms - reference["d1_d2"]).max() < 1e-6
    nearest = reference["nearest"].reshape(len(samples), -1)
    assert np.array_equal(found.indices[:, : nearest.shape[1]][:, 0], nearest[:, 0])
    assert mean_distance(found, 64) == pytest.approx(reference["d1_d2"][:, 0].mean(), rel=1e-12)


# Brute force


@st.composite
def image_sets(draw) -> tuple[np.ndarray, np.ndarray, int]:
    """(generated, train, k): images with duplicates, near copies and many equal distances."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from([(1, 1, 2), (1, 3, 3), (1, 8, 8), (3, 8, 8)]))
    n = draw(st.integers(2, 300))
    levels = draw(st.sampled_from([2, 17, 256]))
    train = (random.integers(0, levels, (n, *shape)) * (255 // (levels - 1))).astype(np.uint8)
    near_copies = draw(st.integers(0, 8))
    for place in random.integers(0, n, near_copies):
        train[place] = near(train[random.integers(n)], 1, 1, random)[0]
    for place in random.integers(0, n, draw(st.sampled_from([0, 1, n // 2]))):
        train[place] = train[random.integers(n)]
    if (train == train[0]).all():
        train[-1] = 255 - train[0]
    generated = random.integers(0, 256, (12, *shape)).astype(np.uint8)
    generated[:4] = train[random.integers(0, n, 4)]
    for row in range(4, 8):
        generated[row] = near(train[random.integers(n)], 1, 1, random)[0]
    return generated, train, draw(st.sampled_from([2, 3, 10]))


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(image_sets())
def test_equals_brute_force(sets):
    check_against_brute_force(*sets)


@pytest.mark.parametrize("n", [10 + SLACK, 11 + SLACK])  # the largest set whose images are all candidates, and one more
def test_both_paths_meet(n):
    random = np.random.default_rng(n)
    train = random.integers(0, 256, (n, 1, 4, 4)).astype(np.uint8)
    check_against_brute_force(random.integers(0, 256, (20, 1, 4, 4)).astype(np.uint8), train, 10)


@pytest.mark.parametrize("value", [0, 254])
def test_near_copies_far_from_the_origin_are_told_apart(value):
    """Squares of 3072 values near 255 add up to 2e8, where float32 has steps of 16: only centred sums see 1."""
    random = np.random.default_rng(0)
    base = np.full((3, 32, 32), value, np.uint8)
    train = np.concatenate([near(base, 1, flips, random) for flips in range(0, 1200, 4)])  # 4 apart from each other
    generated = near(base, 30, 2, random)
    found = search(generated, train)
    exact = np.sort(distances(generated, train), axis=1)[:, :10]
    assert np.array_equal(found.squared, exact)
    assert exact.max() < 60
    assert len(np.unique(exact)) > 5


@pytest.mark.slow
def test_two_clusters_of_near_copies():
    """Half of the images near 255, half near 0: centring leaves each cluster far from the mean."""
    random = np.random.default_rng(0)
    high, low = np.full((3, 32, 32), 254, np.uint8), np.ones((3, 32, 32), np.uint8)
    train = np.concatenate([near(high, 150, 6, random), near(low, 150, 6, random)])
    generated = near(high, 60, 2, random)
    exact = np.sort(distances(generated, train), axis=1)[:, :10]
    assert np.array_equal(search(generated, train).squared, exact)


def test_large_images_do_not_overflow():
    """2^17 pixels at the largest distance: 8.5e9, beyond int32."""
    black, white = np.zeros((1, 2**17, 1), np.uint8), np.full((1, 2**17, 1), 255, np.uint8)
    train = np.stack([black, white, np.full_like(black, 254)])
    found = search(np.stack([black, white]), train)
    assert found.squared.tolist() == [[0, 2**17 * 254**2, 2**17 * 255**2], [0, 2**17, 2**17 * 255**2]]
    assert memorized(found).tolist() == [True, True]
    halves = np.stack([black, np.full_like(black, 192), np.full_like(black, 193)])
    found = search(halves[:1] + np.uint8(64), halves[1:])  # d1 = 128, d2 = 129
    assert memorized(found, 128 / 129).tolist() == [False]
    assert memorized(found, 129 / 130).tolist() == [True]


def test_more_pixels_than_one_product_of_bytes_can_sum():
    """2^16 + 1 pixels of the largest values: their squares do not fit int32."""
    random = np.random.default_rng(0)
    train = random.choice([0, 255], (20, 1, 2**16 + 1, 1)).astype(np.uint8)
    generated = np.concatenate([255 - train[:3], near(train[3], 3, 5, random)])
    exact = np.sort(distances(generated, train), axis=1)[:, :2]
    assert np.array_equal(search(generated, train, 2).squared, exact)


def pairs(*squared: tuple[int, int]) -> Neighbours:
    return Neighbours(np.zeros((len(squared), 2), int), np.array(squared, np.int64), np.ones(len(squared), int))


def test_largest_distances_under_a_threshold_of_many_digits():
    pixels = 3 * 2048**2
    assert memorized(pairs((pixels * 255**2 // 2, pixels * 255**2)), 0.3333).tolist() == [False]  # d1/d2 = 0.71


def test_smallest_threshold_still_finds_exact_copies():
    assert memorized(pairs((0, 49)), 1e-5).tolist() == [True]


# The criterion itself


@pytest.mark.parametrize("first", [1, 2, 7, 12, 84])
def test_exactly_a_third_is_not_memorized(first):
    """Images of one pixel that differs: d1 = first, d2 = 3 first; and one grey level more."""
    train = np.zeros((3, 1, 2, 2), np.uint8)
    train[0, 0, 0, 0], train[1, 0, 0, 0], train[2] = first, 3 * first, 255
    query = np.zeros((1, 1, 2, 2), np.uint8)
    found = search(query, train)
    assert found.squared[0, :2].tolist() == [first**2, 9 * first**2]
    assert memorized(found).tolist() == [False]
    train[1, 0, 0, 0] += 1
    assert memorized(search(query, train)).tolist() == [True]


def test_thirds_of_irrational_distances_and_other_thresholds():
    found = pairs((2, 18), (2, 19), (5, 45), (5, 46), (0, 0), (0, 1), (1, 25), (1, 26), (1, 16), (1, 17))
    assert memorized(found).tolist() == [False, True, False, True, False, True, True, True, True, True]
    fifth = memorized(found, 0.2)
    assert fifth[6:].tolist() == [False, True, False, False]
    assert memorized(found, 0.25)[8:].tolist() == [False, True]


def test_duplicates_count_once_unless_asked():
    """A copy of a duplicated image: memorized, but under the paper's rule d1/d2 = 0/0 or 1, so not."""
    train = np.array([10, 10, 200, 100, 100, 100], np.uint8).reshape(6, 1, 1, 1)
    query = np.array([10, 11, 200, 102], np.uint8).reshape(4, 1, 1, 1)
    found = search(query, train)
    assert found.indices.tolist() == [[0, 3, 2], [0, 3, 2], [2, 3, 0], [3, 0, 2]]
    assert found.copies.tolist() == [2, 2, 1, 3]
    assert memorized(found).tolist() == [True, True, True, True]
    assert memorized(found, distinct=False).tolist() == [False, False, True, False]


def test_a_duplicated_second_neighbour_changes_nothing():
    train = np.array([10, 100, 100], np.uint8).reshape(3, 1, 1, 1)
    found = search(np.array([12], np.uint8).reshape(1, 1, 1, 1), train)
    assert memorized(found).tolist() == memorized(found, distinct=False).tolist() == [True]


@pytest.mark.parametrize("n", [1, 5])
def test_fewer_than_two_distinct_images_is_an_error(n):
    train = np.full((n, 1, 2, 2), 7, np.uint8)
    with pytest.raises(ValueError, match="fewer than two distinct images"):
        search(train[:1], train)


# The score stage


class Place:
    """The files of one scored run, and its command line."""

    def __init__(self, folder: Path, train: np.ndarray, images: np.ndarray, **scoring: Any):
        self.folder, self.train, self.images = folder, train, images
        self.content = {"data": {"source": "digits"}, "scoring": scoring}
        self.subset, self.samples = folder / "subset.npz", folder / "samples.npz"
        self.score, self.neighbours = folder / "out" / "score.json", folder / "out" / "neighbours.npz"
        self.gallery = folder / "out" / "gallery.npz"
        self.records = [folder / "training.json", folder / "sampling.json"]
        n, none = len(train), np.zeros(0, np.int64)
        zeros, places = np.zeros(n, np.int64), np.arange(n)
        save(self.subset, Subset(train, zeros, 0, places, duplicate_groups(train), train[:0], none))
        shares = np.linspace(0, 1, len(images) + 1)[1:]
        seen = (shares * 800).astype(int)
        write_npz(self.samples, images=images, labels=none, seeds=none, shares=shares, images_seen=seen)
        write_json(self.records[0], {"images_trained": 800, "flops": 7000, "seconds": 2.5})
        write_json(self.records[1], {"evaluations": 70, "flops": 500, "seconds": 1.5})

    def call(self) -> int:
        options = {name: str(getattr(self, name)) for name in ("subset", "samples", "score", "neighbours", "gallery")}
        arguments = ["--settings", json.dumps(self.content), "--key", "abc", "--replicate", "0"]
        arguments += ["--n", str(len(self.train))]
        arguments += [text for name, path in options.items() for text in (f"--{name}", path)]
        return call("emmeter.stages.score", *arguments, "--records", *map(str, self.records))


def scored(folder: Path, **scoring: Any) -> Place:
    """Two snapshots of 40 images, the second closer to the training images than the first."""
    random = np.random.default_rng(3)
    train = random.integers(0, 256, (50, 1, 4, 4)).astype(np.uint8)
    train[40:] = train[:10]
    mix = train[random.integers(0, 50, 40)].astype(float)
    noise = random.normal(0, 1, (2, 40, 1, 4, 4)) * np.array([30.0, 20.0]).reshape(2, 1, 1, 1, 1)
    return Place(folder, train, np.clip(mix + noise, 0, 255).astype(np.uint8), **scoring)


def one_error(capsys) -> str:
    lines = messages(capsys.readouterr().err)
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("distinct", [True, False])
def test_stage_counts_copies(tmp_path, distinct, engine):
    place = scored(tmp_path, distinct=distinct, neighbours=5)
    assert place.call() == 0
    content = json.loads(place.score.read_text())
    assert (content["n"], content["replicate"], content["key"]) == (50, 0, "abc")
    assert content["image_shape"] == [1, 4, 4]
    assert content["threshold"] == 1 / 3
    assert content["engine"] == engine
    assert content["cost"] == {"images_trained": 800, "flops": 7500, "seconds": 4.0}
    assert [row["progress"] for row in content["snapshots"]] == [0.5, 1.0]
    assert [row["images_seen"] for row in content["snapshots"]] == [400, 800]
    ratios = []
    for row, images in zip(content["snapshots"], place.images, strict=True):
        every = distances(images, place.train if not distinct else np.unique(place.train, axis=0))
        two = np.sqrt(np.sort(every, axis=1)[:, :2])
        count = int((two[:, 0] * 3 < two[:, 1] - 1e-9).sum())
        assert (row["memorized"], row["images"], row["ratio"]) == (count, 40, count / 40)
        assert (row["ratio_low"], row["ratio_high"]) == wilson(count, 40)
        assert row["ratio_low"] < row["ratio"] + 1e-12
        assert row["ratio"] < row["ratio_high"]
        assert row["mean_distance"] == pytest.approx(two[:, 0].mean() / 4, rel=1e-12)
        ratios.append(row["ratio"])
    assert 0 < ratios[0] < ratios[1] < 1
    assert (place.score.parent / "settings.yaml").is_file()


def test_wilson_interval_of_known_counts():
    """Newcombe 1998, table I: 81 of 263 and 15 of 148."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)


@pytest.mark.parametrize("duplicates", [False, True])
def test_ratios_under_other_thresholds_come_from_stored_distances(tmp_path, capsys, duplicates):
    place = scored(tmp_path)
    assert place.call() == 0
    thresholds = [0.2, 1 / 3, 0.5]
    options = [str(place.neighbours), "--threshold", *map(str, thresholds)] + ["--duplicates"] * duplicates
    capsys.readouterr()
    assert call("emmeter.cli", "rescore", *options) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["threshold", "snapshot", "0", "snapshot", "1"]
    train = place.train if duplicates else np.unique(place.train, axis=0)
    for threshold, line in zip(thresholds, lines, strict=True):
        shown = [float(text) for text in line.split()]
        assert shown[0] == pytest.approx(threshold, rel=1e-3)
        for ratio, images in zip(shown[1:], place.images, strict=True):
            two = np.sqrt(np.sort(distances(images, train), axis=1)[:, :2])
            assert ratio == pytest.approx((two[:, 0] < threshold * two[:, 1] - 1e-9).mean(), abs=5e-5)
    recorded = json.loads(place.score.read_text())["snapshots"]
    if not duplicates:
        shown = [float(text) for text in lines[1].split()[1:]]
        assert shown == pytest.approx([row["ratio"] for row in recorded], abs=5e-5)


def test_stored_neighbours_are_exact(tmp_path):
    place = scored(tmp_path, neighbours=7)
    assert place.call() == 0
    with np.load(place.neighbours, allow_pickle=False) as archive:
        indices, squared, copies = (archive[name] for name in ("indices", "squared", "copies"))
    assert indices.shape == squared.shape == (2, 40, 7)
    for snapshot, images in enumerate(place.images):
        every = distances(images, place.train)
        assert np.array_equal(np.take_along_axis(every, indices[snapshot].astype(int), 1), squared[snapshot])
        assert np.array_equal(copies[snapshot], (every == squared[snapshot][:, :1]).sum(axis=1))


def test_gallery_shows_even_ranks_of_the_last_snapshot(tmp_path):
    place = scored(tmp_path)
    assert place.call() == 0
    content = read_gallery(place.gallery)
    last = place.images[-1]
    every = distances(last, place.train)
    two = np.sqrt(np.sort(distances(last, np.unique(place.train, axis=0)), axis=1)[:, :2])
    order = np.argsort(two[:, 0] / two[:, 1], kind="stable")
    assert content["rank"].tolist() == np.round(np.linspace(0, 39, 16)).tolist()
    assert content["index"].tolist() == order[content["rank"]].tolist()
    assert np.array_equal(content["generated"], last[content["index"]])
    chosen = every[content["index"]]
    for side, distance in (("nearest", "d1"), ("second", "d2")):
        assert content[side].shape == (16, 1, 4, 4)
        own = distances(content["generated"], content[side]).diagonal()
        assert content[distance].tolist() == pytest.approx(np.sqrt(own / 16).tolist())
    assert content["d1"].tolist() == pytest.approx(np.sqrt(chosen.min(axis=1) / 16).tolist())
    assert content["copy"].tolist() == (content["d1"] < content["d2"] / 3).tolist()
    assert (int(content["n"]), int(content["replicate"]), int(content["images"])) == (50, 0, 40)
    assert int(content["copies"]) == (two[:, 0] < two[:, 1] / 3).sum()


@pytest.mark.parametrize("count", [1, 2, 5, 16, 17, 100])
@pytest.mark.parametrize("ratios", ["all 0", "two values", "many"])
def test_gallery_shows_no_image_twice(count, ratios):
    """Also if all ratios are equal, as those of the theoretical optimum are."""
    random = np.random.default_rng(count)
    first = {"all 0": np.zeros(count), "two values": np.arange(count) % 2 * 3}.get(ratios, random.permutation(count))
    squared = np.stack([first, np.full(count, 500)], axis=1).astype(np.int64)
    generated, train = (random.integers(0, 256, (size, 1, 2, 2)).astype(np.uint8) for size in (count, 20))
    indices = np.stack([np.arange(count) % 20, (np.arange(count) + 1) % 20], axis=1)
    copies = first * 9 < 500
    content = even_ranks(generated, train, Neighbours(indices, squared, np.ones(count, int)), copies)
    assert len(set(content["index"].tolist())) == len(content["index"]) == min(GALLERY, count)
    assert (np.diff(content["d1"]) >= 0).all()
    if count == 100:
        assert abs(content["copy"].mean() - copies.mean()) <= 1 / GALLERY  # the share shown is that of the run


def test_a_gallery_of_an_earlier_version_is_named(tmp_path):
    write_npz(tmp_path / "gallery.npz", best_generated=np.zeros((1, 1, 2, 2), np.uint8))
    with pytest.raises(StageError, match=r"gallery\.npz: is not a gallery of this version .*; delete it and run again"):
        read_gallery(tmp_path / "gallery.npz")


def test_all_and_none_memorized():
    setup = read_setup({})
    (all_of,) = count_copies([pairs(*[(0, 9)] * 20)], setup, 16)
    assert (all_of["memorized"], all_of["ratio"]) == (20, 1.0)
    assert all_of["ratio_high"] == pytest.approx(1, abs=1e-12)
    assert 0.8 < all_of["ratio_low"] < 1
    (none_of,) = count_copies([pairs(*[(9, 9)] * 20)], setup, 16)
    assert (none_of["memorized"], none_of["ratio"]) == (0, 0.0)
    assert none_of["ratio_low"] == pytest.approx(0, abs=1e-12)
    assert 0 < none_of["ratio_high"] < 0.2


def damage(path: Path, kind: str) -> None:
    whole = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "other arrays":
        write_npz(path, x=np.zeros(3))
    else:
        path.write_bytes({"empty": b"", "text": b"hello\n", "truncated": whole[: len(whole) // 2]}[kind])


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "other arrays", "truncated"])
def test_damaged_samples_are_one_line(tmp_path, capsys, kind):
    place = scored(tmp_path)
    damage(place.samples, kind)
    assert place.call() == 1
    assert str(place.samples) in one_error(capsys)
    assert not place.score.exists()


@pytest.mark.parametrize("kind", ["missing", "text", "other arrays", "truncated"])
def test_damaged_neighbours_are_one_line(tmp_path, capsys, kind):
    place = scored(tmp_path)
    assert place.call() == 0
    damage(place.neighbours, kind)
    assert call("emmeter.cli", "rescore", str(place.neighbours)) == 1
    assert str(place.neighbours) in one_error(capsys)


def test_indistinct_training_images_are_one_line(tmp_path, capsys):
    train = np.full((4, 1, 4, 4), 9, np.uint8)
    place = Place(tmp_path, train, train[None])
    assert place.call() == 1
    line = one_error(capsys)
    assert str(place.subset) in line
    assert "distinct" in line


# Mirror images


def check_mirrored_against_brute_force(generated: np.ndarray, train: np.ndarray, k: int) -> None:
    """The nearer of both orientations of every distinct training image, sorted; ties by position."""
    found = mirrored_neighbours(generated, train, duplicate_groups(train), k)
    every = np.minimum(distances(generated, train), distances(generated, train[..., ::-1]))
    twins = (distances(train, train) == 0) | (distances(train, train[..., ::-1]) == 0)
    groups = twins.argmax(axis=1)  # the first image that equals each one or its mirror image
    distinct = np.unique(groups).tolist()
    for row, exact in enumerate(every):
        nearest = sorted((int(exact[i]), i) for i in distinct)[:k]
        assert list(zip(found.squared[row].tolist(), found.indices[row].tolist(), strict=True)) == nearest
        assert found.copies[row] == (groups == nearest[0][1]).sum()
        d1, d2 = nearest[0][0], nearest[1][0]
        assert memorized(found)[row] == (9 * d1 < d2)
        assert memorized(found, distinct=False)[row] == (9 * d1 < d2 and found.copies[row] == 1)
    assert found.indices.dtype == found.squared.dtype == found.copies.dtype == np.int64


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(image_sets(), st.booleans())
def test_mirrored_neighbours_equal_brute_force(sets, mirrored_copies):
    generated, train, k = sets
    if mirrored_copies:  # some generated and some training images are mirror images of others
        generated[::2] = generated[::2, ..., ::-1]
        train[1::3] = train[: len(train[1::3]), ..., ::-1]
    assume(not all(np.array_equal(one, train[0]) or np.array_equal(one, train[0, ..., ::-1]) for one in train))
    check_mirrored_against_brute_force(generated, train, k)


@pytest.mark.parametrize("n", [10 + SLACK, 11 + SLACK])  # the largest set whose images are all candidates, and one more
def test_both_paths_of_mirrored_neighbours_meet(n):
    random = np.random.default_rng(n)
    train = random.integers(0, 256, (n, 1, 4, 4)).astype(np.uint8)
    check_mirrored_against_brute_force(random.integers(0, 256, (20, 1, 4, 4)).astype(np.uint8), train, 10)


def test_mirroring_is_left_to_right_and_on_either_side_alike():
    random = np.random.default_rng(0)
    train = random.integers(0, 256, (30, 3, 4, 4)).astype(np.uint8)
    generated = np.concatenate([train[:1], train[1:2, ..., ::-1], train[2:3, :, ::-1], train[3:4, :, ::-1, ::-1]])
    groups = duplicate_groups(train)
    found = mirrored_neighbours(generated, train, groups, 5)
    assert found.squared[:, 0].astype(bool).tolist() == [False, False, True, True]
    assert found.indices[:2, 0].tolist() == [0, 1]
    for other in (
        mirrored_neighbours(generated[..., ::-1], train, groups, 5),
        mirrored_neighbours(generated, train[..., ::-1], groups, 5),
    ):
        assert all(np.array_equal(value, getattr(other, name)) for name, value in vars(found).items())


def test_a_mirrored_copy_counts_only_where_mirror_images_do():
    random = np.random.default_rng(0)
    train = random.integers(0, 256, (30, 1, 8, 8)).astype(np.uint8)
    train[20:22] = train[5]  # three of a kind
    generated = near(train[[4, 5, 6]], 1, 0, random)[0]
    generated[[1, 2]] = generated[[1, 2], ..., ::-1]
    groups = duplicate_groups(train)
    plain, mirrored = (search(generated, train, groups, 10) for search in (neighbours, mirrored_neighbours))
    assert memorized(plain).tolist() == [True, False, False]
    assert memorized(mirrored).tolist() == [True, True, True]
    assert mirrored.indices[:, 0].tolist() == [4, 5, 6]
    assert mirrored.copies.tolist() == [1, 3, 1]
    assert memorized(mirrored, distinct=False).tolist() == [True, False, True]


def test_an_image_is_one_neighbour_in_both_orientations():
    """A nearly symmetric image must not be its own second neighbour, which would hide every copy of it."""
    train = np.array([[[[10, 12]]], [[[100, 200]]]], np.uint8)
    found = mirrored_neighbours(np.array([[[[12, 10]]]], np.uint8), train, np.arange(2), 2)
    assert found.indices.tolist() == [[0, 1]]
    assert found.squared.tolist() == [[0, 188**2 + 90**2]]  # of the second image its mirror image is nearer
    assert memorized(found).tolist() == [True]


def test_copies_of_an_image_whose_mirror_image_is_in_the_set_count():
    random = np.random.default_rng(0)
    train = random.integers(0, 256, (6, 1, 8, 8)).astype(np.uint8)
    train[3], train[5] = train[1, ..., ::-1], train[1]
    found = mirrored_neighbours(train[[1, 3, 0]], train, duplicate_groups(train), 3)
    assert memorized(found).tolist() == [True, True, True]
    assert (found.indices[:, 0].tolist(), found.copies.tolist()) == ([1, 1, 0], [3, 3, 1])
    assert memorized(found, distinct=False).tolist() == [False, False, True]


@pytest.mark.parametrize("n", [1, 5])
def test_mirrored_neighbours_need_two_distinct_images(n):
    train = np.full((n, 1, 2, 2), 7, np.uint8)
    with pytest.raises(ValueError, match="fewer than two distinct images"):
        mirrored_neighbours(train[:1], train, duplicate_groups(train), 10)


def test_stage_counts_mirrored_copies_when_told_so(tmp_path):
    counts = {}
    for mirrored in (False, True):
        place = scored(tmp_path, mirrored=mirrored)
        images = place.images.copy()
        images[:, :20] = images[:, :20, ..., ::-1]
        write_npz(place.samples, **(dict(np.load(place.samples)) | {"images": images}))
        assert place.call() == 0
        counts[mirrored] = [row["memorized"] for row in json.loads(place.score.read_text())["snapshots"]]
        train = np.unique(place.train, axis=0)
        for count, shown in zip(counts[mirrored], images, strict=True):
            every = distances(shown, train)
            two = np.sort(np.minimum(every, distances(shown, train[..., ::-1])) if mirrored else every, axis=1)[:, :2]
            assert count == (9 * two[:, 0] < two[:, 1]).sum()
    assert counts[False][-1] < counts[True][-1]
