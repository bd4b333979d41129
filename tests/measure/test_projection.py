"""Tests of the search among projections."""

import numpy as np
import pytest

from emmeter.measure import engines
from emmeter.measure.engines import decision, projection
from emmeter.measure.engines.contract import Engine
from emmeter.measure.engines.exact import FLOATS
from emmeter.measure.engines.projection import Projection, directions, pair_distances
from emmeter.measure.engines.trials import fault


def never(*_: object) -> tuple[np.ndarray, np.ndarray]:
    raise AssertionError("the projections decide")


def reference(query: np.ndarray, base: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(m, k) positions and squared distances by products of float64, of which every partial sum is an integer."""
    q, b = query.astype(np.float64), base.astype(np.float64)
    every = ((q**2).sum(1)[:, None] + (b**2).sum(1) - 2 * q @ b.T).astype(np.int64)
    order = np.argsort(every, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(every, order, 1)


NEVER = Engine("never", never)


def smooth(count: int, side: int = 16, seed: int = 0) -> np.ndarray:
    """(count, 3 side^2) uint8 images that vary mostly along few directions, as photographs do."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 3, 4, 4)).repeat(side // 4, axis=2).repeat(side // 4, axis=3)
    fine = random.integers(-12, 13, (count, 3, side, side))
    return np.clip(coarse + fine, 0, 255).astype(np.uint8).reshape(count, -1)


@pytest.fixture
def sets() -> tuple[np.ndarray, np.ndarray]:
    """Queries, of which some are copies and near copies, and stored images, of which some are equal."""
    base, query = smooth(1500), smooth(60, seed=1)
    base[1000:1010] = base[10:20]
    query[:20] = base[10:30]
    query[20:40] = np.clip(base[100:120].astype(int) + np.random.default_rng(2).integers(-3, 4, (20, 768)), 0, 255)
    return query, base


@pytest.mark.parametrize("k", [1, 2, 9])
def test_projections_find_the_neighbours_of_a_comparison_pixel_by_pixel(sets, k):
    query, base = sets
    positions, squared = Projection(NEVER, 64).propose(query, base, k)
    assert all(map(np.array_equal, (positions, squared), reference(query, base, k)))


def test_projections_find_the_same_in_blocks(sets, monkeypatch):
    query, base = sets
    monkeypatch.setattr(projection, "ROWS", 50)
    monkeypatch.setattr(projection, "COLUMNS", 700)
    monkeypatch.setattr(projection, "PART", 2**12)
    monkeypatch.setattr(projection, "PAIRS", 2**11)
    positions, squared = Projection(NEVER, 64).propose(query, base, 3)
    assert all(map(np.array_equal, (positions, squared), reference(query, base, 3)))


@pytest.mark.parametrize("count", [1, 3, 8])
def test_projections_on_few_directions_are_slower_but_right(sets, count, monkeypatch):
    query, base = sets
    monkeypatch.setattr(projection, "SHARE", 1)
    positions, squared = Projection(NEVER, count).propose(query, base, 2)
    assert all(map(np.array_equal, (positions, squared), reference(query, base, 2)))


def test_another_engine_compares_images_without_main_directions(monkeypatch):
    random = np.random.default_rng(0)
    query, base = (random.integers(0, 256, (count, 768), np.uint8) for count in (60, 900))
    monkeypatch.setattr(projection, "ROWS", 25)
    monkeypatch.setattr(projection, "FEW", 1)
    asked: list[int] = []

    def counted(part: np.ndarray, stored: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append(len(part))
        return reference(part, stored, wanted)

    found = decision.search(Projection(Engine("other", counted), 32).engine, query, base, 2)
    assert all(map(np.array_equal, found, reference(query, base, 2)))
    assert asked == [60]


def test_the_trials_of_engines_find_no_fault_in_projections():
    assert fault(Projection(FLOATS).engine, 3072) is None


def test_no_distance_of_projections_exceeds_that_of_the_images(sets):
    query, base = sets
    search = Projection(NEVER, 48)
    search._prepare(base)
    projected, lengths = search._projected(query)
    relative, _ = search._errors(base.shape[1])
    below = np.linalg.norm(projected[:, None].astype(float) - search._stored[None, 50:150], axis=2)
    true = np.linalg.norm(query[:, None].astype(float) - base[None, 50:150], axis=2)
    assert (below <= true + relative * (lengths[:, None] + search._lengths[50:150])).all()
    assert np.median(below / true) > 0.9  # as a bound that excludes images


def test_directions_are_orthonormal_and_at_most_as_many_as_images():
    base = smooth(40)
    basis = directions(base, base.mean(axis=0).round().astype(np.float32), 64)
    assert basis.shape == (768, 40)
    assert np.allclose(basis.T @ basis, np.eye(40), atol=1e-12)


def test_equal_images_have_projections_too():
    base = np.full((50, 800), 7, np.uint8)
    query = np.arange(0, 250, 50, dtype=np.uint8)[:, None].repeat(800, 1)
    positions, squared = Projection(NEVER, 8).propose(query, base, 2)
    assert all(map(np.array_equal, (positions, squared), reference(query, base, 2)))


def test_distances_of_pairs_are_integers_even_of_large_images():
    white, black = np.full((2, 200_000), 255, np.uint8), np.zeros((3, 200_000), np.uint8)
    assert pair_distances(white, black, np.array([0, 1]), np.array([2, 0])).tolist() == [255**2 * 200_000] * 2


def test_products_of_less_than_float32_are_refused(monkeypatch, sets):
    import torch

    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    with pytest.raises(engines.EngineError, match="less precise than float32"):
        Projection(NEVER).propose(*sets, 2)


@pytest.mark.parametrize(("queries", "pixels", "stored", "pays"), [
    (10_000, 3072, 50_000, True), (10_000, 64, 50_000, False), (100, 3072, 50_000, False), (700, 196_608, 1200, False),
])  # fmt: skip
def test_projections_serve_large_sets_of_large_images(queries, pixels, stored, pays):
    assert engines.projection_pays(queries, pixels, stored) is pays
