"""Image quality: closed forms, a reference by brute force, what must not matter, and what must show."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits

from emmeter.measure.quality.distributions import frechet, mmd, squared_distances, typical_distance
from emmeter.measure.quality.floors import METRICS, Measures, against_held_out, against_train, draws_of, measures
from emmeter.measure.quality.neighbourhoods import nearest_others, neighbourhoods

SEEDS = st.integers(0, 2**32 - 1)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def rotation(seed: int, d: int) -> np.ndarray:
    return np.linalg.qr(normal(seed, d, d))[0]


def with_moments(features: np.ndarray, mean: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Features moved so that their sample mean is `mean` and their sample covariance root^T root, exactly."""
    centred = features - features.mean(axis=0)
    white = centred @ np.linalg.inv(np.linalg.cholesky(np.cov(centred.T)).T)
    return white @ root + mean


def digits() -> np.ndarray:
    """All digits as features in [0, 1], in a random order."""
    return np.random.default_rng(0).permutation(load_digits().data) / 16


def by_loops(images: np.ndarray, real: np.ndarray, k: int, width: float) -> Measures:
    """All measures as their papers define them, one pair of images at a time."""

    def distance(a, b):
        return math.dist(a.tolist(), b.tolist())

    def others(images):
        rows = ([distance(a, b) for j, b in enumerate(images) if j != i] for i, a in enumerate(images))
        return [sorted(row) for row in rows]

    def kernel(a, b):
        return math.exp(-(distance(a, b) ** 2) / (2 * width**2))

    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    radius = [row[k - 1] for row in others(real)]
    own_radius = [row[k - 1] for row in others(images)]
    nearest = [min(range(len(real)), key=lambda i: distance(image, real[i])) for image in images]
    within = [
        mean(kernel(a, b) for i, a in enumerate(part) for j, b in enumerate(part) if i != j) for part in (images, real)
    ]
    covariances = [np.cov(part.T) for part in (images, real)]
    shift = images.mean(axis=0) - real.mean(axis=0)
    spread = sum(map(np.trace, covariances)) - 2 * np.trace(sqrtm(covariances[0] @ covariances[1])).real
    return Measures(
        frechet=float(shift @ shift + spread),
        mmd=sum(within) - 2 * mean(kernel(a, b) for a in images for b in real),
        precision=mean(any(distance(a, b) <= r for b, r in zip(real, radius, strict=True)) for a in images),
        recall=mean(any(distance(a, b) <= r for a, r in zip(images, own_radius, strict=True)) for b in real),
        density=sum(distance(a, b) <= r for a in images for b, r in zip(real, radius, strict=True)) / k / len(images),
        coverage=mean(any(distance(a, b) <= r for a in images) for b, r in zip(real, radius, strict=True)),
        authenticity=mean(distance(a, real[i]) > others(real)[i][0] for a, i in zip(images, nearest, strict=True)),
    )


@pytest.mark.parametrize(("m", "n", "d", "k"), [(12, 15, 3, 1), (20, 9, 4, 5), (9, 30, 2, 3)])
def test_all_measures_agree_with_their_definitions(m, n, d, k):
    images, real = 0.8 * normal(m, m, d) + 0.3, normal(n + 1, n, d)
    assert astuple(measures(images, real, k, 0.7)) == pytest.approx(astuple(by_loops(images, real, k, 0.7)), abs=1e-7)


def test_the_names_of_the_metrics_are_those_of_the_measures():
    assert tuple(Measures.__dataclass_fields__) == METRICS


# Fréchet distance


def test_frechet_of_gaussians_with_one_covariance_is_the_squared_shift():
    root = normal(3, 4, 4)
    first = with_moments(normal(1, 50, 4), np.zeros(4), root)
    second = with_moments(normal(2, 70, 4), np.array([1.0, 2.0, 0.0, -2.0]), root)
    assert frechet(first, second) == pytest.approx(9.0, rel=1e-9)


def test_frechet_of_gaussians_along_the_axes_is_that_of_their_standard_deviations():
    deviations = np.array([[1.0, 2.0, 5.0], [3.0, 2.0, 1.0]])
    first, second = (with_moments(normal(s, 40, 3), np.zeros(3), np.diag(deviations[s])) for s in (0, 1))
    assert frechet(first, second) == pytest.approx(4 + 0 + 16, rel=1e-9)


def test_frechet_in_one_dimension_matches_the_formula():
    first, second = np.array([[0.0], [2.0]]), np.array([[1.0], [5.0], [9.0]])
    assert frechet(first, second) == pytest.approx((1 - 5) ** 2 + (math.sqrt(2) - 4) ** 2, rel=1e-12)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=SEEDS, n=st.integers(2, 12), m=st.integers(2, 40), d=st.integers(1, 30))
def test_frechet_is_symmetric_and_unmoved_by_rotations_shifts_and_order_also_of_few_images(seed, n, m, d):
    random = np.random.default_rng(seed)
    first, second = random.standard_normal((n, d)), 2 * random.standard_normal((m, d)) + 1
    distance, turn, shift = frechet(first, second), rotation(seed, d), random.standard_normal(d)
    assert distance >= 0
    assert frechet(second, first) == pytest.approx(distance, rel=1e-8, abs=1e-8)
    assert frechet(first @ turn + shift, second @ turn + shift) == pytest.approx(distance, rel=1e-8, abs=1e-8)
    assert frechet(random.permutation(first), second) == pytest.approx(distance, rel=1e-8, abs=1e-8)
    assert frechet(3 * first, 3 * second) == pytest.approx(9 * distance, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("n", [5, 200])
def test_frechet_of_a_set_from_itself_is_zero(n):
    assert frechet(normal(n, n, 20), normal(n, n, 20)) == pytest.approx(0, abs=1e-10)


# Kernel MMD


def test_mmd_of_gaussians_is_on_average_that_of_the_closed_form():
    """For N(0, 1) and N(s, 1) in d dimensions: 2 (w^2 / (w^2 + 2))^(d/2) (1 - exp(-s^2 / (2 w^2 + 4)))."""
    d, width, shift = 3, 1.5, 1.2
    estimates = [
        mmd(normal(seed, 60, d), normal(seed + 10_000, 50, d) + np.eye(3)[0] * shift, width) for seed in range(300)
    ]
    expected = 2 * (width**2 / (width**2 + 2)) ** (d / 2) * (1 - math.exp(-(shift**2) / (2 * width**2 + 4)))
    assert np.mean(estimates) == pytest.approx(expected, abs=3 * np.std(estimates) / math.sqrt(300))


def test_mmd_of_one_distribution_is_zero_on_average_however_few_the_images():
    estimates = [mmd(normal(seed, 4, 2), normal(seed + 10_000, 5, 2), 1.0) for seed in range(1000)]
    assert abs(np.mean(estimates)) < 3 * np.std(estimates) / math.sqrt(1000)
    assert min(estimates) < 0 < max(estimates)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=SEEDS, n=st.integers(2, 12), m=st.integers(2, 20), d=st.integers(1, 30))
def test_mmd_is_symmetric_and_unmoved_by_rotations_shifts_and_order(seed, n, m, d):
    random = np.random.default_rng(seed)
    first, second = random.standard_normal((n, d)), random.standard_normal((m, d)) + 0.5
    estimate, turn = mmd(first, second, 2.0), rotation(seed, d)
    assert mmd(second, first, 2.0) == pytest.approx(estimate, abs=1e-12)
    assert mmd(first @ turn + 7, second @ turn + 7, 2.0) == pytest.approx(estimate, abs=1e-9)
    assert mmd(random.permutation(first), second, 2.0) == pytest.approx(estimate, abs=1e-12)


def test_the_bandwidth_is_half_the_median_distance():
    points = np.array([[0.0], [1.0], [5.0]])  # distances 1, 4, 5
    assert typical_distance(points) == 2.0
    assert typical_distance(np.array([[0.0]] * 9 + [[6.0]])) == 3.0  # most images are duplicates
    with pytest.raises(ValueError, match="same features"):
        typical_distance(np.ones((5, 2)))


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan])
def test_a_bandwidth_that_is_not_positive_is_refused(width):
    with pytest.raises(ValueError, match="must be above 0"):
        mmd(normal(0, 5, 2), normal(1, 5, 2), width)


@pytest.mark.parametrize("function", [frechet, lambda a, b: mmd(a, b, 1.0)])
def test_sets_that_cannot_be_compared_are_refused(function):
    for first, second in ((normal(0, 1, 2), normal(1, 5, 2)), (normal(0, 5, 2), normal(1, 5, 3)), (normal(0, 5),) * 2):
        with pytest.raises(ValueError, match="must be"):
            function(first, second)


# Neighbourhoods


def test_copies_are_precise_and_not_authentic():
    real = normal(0, 40, 6)
    near = neighbourhoods(real[np.arange(60) % 40], real, 5)
    assert (near.precision, near.recall, near.coverage, near.authenticity) == (1.0, 1.0, 1.0, 0.0)


def test_copies_of_duplicated_images_are_not_authentic_either():
    real = np.repeat(normal(0, 10, 3), 4, axis=0)
    assert neighbourhoods(real[:20], real, 3).authenticity == 0.0


def test_images_far_away_are_imprecise_cover_nothing_and_are_authentic():
    near = neighbourhoods(normal(0, 30, 4) + 100, normal(1, 30, 4), 5)
    assert astuple(near) == (0.0, 0.0, 0.0, 0.0, 1.0)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=SEEDS, m=st.integers(4, 20), n=st.integers(4, 20), d=st.integers(1, 12), k=st.integers(1, 3))
def test_neighbourhoods_are_unmoved_by_rotations_shifts_scales_and_order(seed, m, n, d, k):
    random = np.random.default_rng(seed)
    images, real = random.standard_normal((m, d)), random.standard_normal((n, d))
    near, turn = neighbourhoods(images, real, k), rotation(seed, d)
    assert all(0 <= value <= 1 for value in (near.precision, near.recall, near.coverage, near.authenticity))
    assert 0 <= near.density <= n / k
    assert neighbourhoods(5 * images @ turn - 3, 5 * real @ turn - 3, k) == near
    assert neighbourhoods(random.permutation(images), random.permutation(real), k) == pytest.approx(near)


@pytest.mark.parametrize("k", [0, 5, 9])
def test_a_number_of_neighbours_that_a_set_does_not_have_is_refused(k):
    with pytest.raises(ValueError, match="must be from 1 to 4"):
        neighbourhoods(normal(0, 5, 2), normal(1, 9, 2), k)


def test_an_image_is_not_its_own_neighbour():
    assert nearest_others(np.array([[0.0], [1.0], [4.0], [4.0]]), 2).tolist() == [[1, 16], [1, 9], [0, 9], [0, 9]]


def test_small_distances_keep_their_digits_far_from_the_origin():
    base = normal(0, 1, 8) + 1000
    points = np.concatenate([base, base + 1e-3, base])
    squared = squared_distances(points, points)
    assert squared[0, 2] == 0
    assert squared[0, 1] == pytest.approx(8e-6, rel=1e-6)


# What must show, on digits: means over draws, beside fresh digits as the floor


def compared(images: np.ndarray, held_out: np.ndarray):
    (result,) = against_held_out([images], held_out, k=5, most=250, draws=5) or [None]
    assert result is not None
    return result


def test_fresh_digits_are_as_the_floor_says():
    real = digits()
    result = compared(real[:250], real[250:750])
    assert result.images == 250
    assert result.k == 5
    assert result.floor.authenticity == pytest.approx(0.5, abs=0.08)
    assert result.generated.mmd == pytest.approx(result.floor.mmd, abs=0.004)
    assert result.generated.frechet == pytest.approx(result.floor.frechet, rel=0.2)
    for name in ("precision", "recall", "density", "coverage", "authenticity"):
        assert getattr(result.generated, name) == pytest.approx(getattr(result.floor, name), abs=0.1)


def test_noise_lowers_precision_and_coverage_and_raises_the_distances():
    real = digits()
    noisy = np.clip(real[:250] + 0.2 * normal(0, 250, 64), 0, 1)
    generated, floor = (result := compared(noisy, real[250:750])).generated, result.floor
    assert generated.precision < floor.precision - 0.2
    assert generated.coverage < floor.coverage - 0.2
    assert generated.frechet > 2 * floor.frechet
    assert generated.mmd > floor.mmd + 0.008
    assert generated.authenticity > 0.9


def test_blur_raises_density_so_density_alone_does_not_measure_quality():
    real = digits()
    blurred = np.array([gaussian_filter(image.reshape(8, 8), 0.5).ravel() for image in real[:250]])
    generated, floor = (result := compared(blurred, real[250:750])).generated, result.floor
    assert generated.density > floor.density + 0.3
    assert generated.mmd > floor.mmd + 0.005


def test_dropped_modes_lower_recall_and_coverage_but_not_precision():
    real = digits()
    repeated = real[np.arange(250) % 10]
    generated, floor = (result := compared(repeated, real[250:750])).generated, result.floor
    assert generated.precision > floor.precision - 0.1
    assert generated.coverage < floor.coverage - 0.4
    assert generated.recall < 0.1
    assert generated.frechet > 5 * floor.frechet


def test_copies_of_the_training_images_show_against_these_and_not_against_held_out_ones():
    real = digits()
    train, held_out = real[:200], real[200:700]
    copies = train[np.random.default_rng(1).integers(0, 200, 400)]
    (result,) = against_train([copies], train, held_out, k=5, most=1000, draws=5) or [None]
    assert result is not None
    assert result.images == 200
    assert result.generated.authenticity == 0
    assert result.generated.precision == 1
    assert result.generated.frechet < result.floor.frechet
    assert compared(copies, held_out).generated.authenticity == pytest.approx(0.5, abs=0.1)


# Equal counts


def test_all_sides_are_compared_at_equal_counts():
    generated, train, held_out = normal(0, 90, 3), normal(1, 30, 3), normal(2, 64, 3)
    counts = {
        "train": against_train([generated], train, held_out, k=5, most=1000, draws=1),
        "held out": against_held_out([generated], held_out, k=5, most=1000, draws=1),
        "at most": against_held_out([generated], held_out, k=5, most=10, draws=1),
        "generated": against_held_out([generated[:7]], held_out, k=9, most=1000, draws=1),
    }
    assert {name: (rows[0].images, rows[0].k) for name, rows in counts.items() if rows} == {
        "train": (30, 5), "held out": (32, 5), "at most": (10, 5), "generated": (7, 6),
    }  # fmt: skip


def test_draws_are_the_same_each_time_and_one_draw_shows_no_spread():
    sets, held_out = [normal(0, 50, 3), normal(3, 50, 3)], normal(1, 60, 3)
    many = against_held_out(sets, held_out, k=3, most=20, draws=4)
    one = against_held_out(sets, held_out, k=3, most=20, draws=1)
    assert many is not None and one is not None
    assert many == against_held_out(sets, held_out, k=3, most=20, draws=4)
    assert [many[1]] == against_held_out(sets[1:], held_out, k=3, most=20, draws=4)  # sets share the draws
    assert many[0].floor == many[1].floor
    assert min(astuple(many[0].floor_sd)) > 0
    assert set(astuple(one[0].floor_sd)) == {0.0}


def test_many_images_are_drawn_fewer_times():
    assert [draws_of(10, images) for images in (4, 200, 400, 1000, 50_000)] == [10, 10, 5, 2, 2]
    assert draws_of(1, 1000) == 1


def test_too_few_images_or_only_equal_ones_are_not_compared():
    generated, few, same = normal(0, 20, 2), normal(1, 7, 2), np.ones((20, 2))
    assert against_held_out([generated], few, k=3, most=100, draws=2) is None
    assert against_train([generated], few[:3], normal(2, 20, 2), k=3, most=100, draws=2) is None
    assert against_train([generated], same, normal(2, 20, 2), k=3, most=100, draws=2) is None
