"""Every engine against brute force in integers, also with fewer instructions than this processor has; and the engines
that replace one that fails."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from emmeter.measure import engines
from emmeter.measure.engines import (
    FAISS,
    FLOATS,
    PIXELS,
    PRODUCTS,
    PRODUCTS_GPU,
    SLACK,
    Engine,
    exact,
    flat,
    rounding,
    search,
    trials,
)
from emmeter.measure.engines.contract import EngineError

EVERYWHERE = [PIXELS, FLOATS, FAISS]
LESSER = ["AVX2", "SSE41"]  # instructions that oneDNN may use: none of them adds four products
NAMES = {engine.name: engine for engine in (*EVERYWHERE, PRODUCTS)}


@pytest.fixture
def large(monkeypatch):
    """Treat every set of images as large."""
    monkeypatch.setattr(engines, "SMALL", 0)
    monkeypatch.setattr(engines, "LARGE", 0)


def brute_force(query: np.ndarray, base: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(m, k) positions and squared distances; ties by position."""
    squared = np.stack([((row.astype(np.int64) - base) ** 2).sum(axis=1) for row in query])
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(squared, order, 1)


def same(neighbours: Sequence, query: np.ndarray, base: np.ndarray) -> bool:
    positions, squared = brute_force(query, base, neighbours[0].shape[1])
    return np.array_equal(neighbours[0], positions) and np.array_equal(neighbours[1], squared)


def colours(count: int, side: int, random: np.random.Generator) -> np.ndarray:
    """Smooth colour images of full contrast."""
    patches = np.kron(random.random((count, 3, 4, 4)), np.ones((1, 1, side // 4, side // 4)))
    return np.clip(patches * 255 + random.normal(0, 10, patches.shape), 0, 255).astype(np.uint8)


def sets(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Generated and training images of one kind, (m, d) and (N, d)."""
    random = np.random.default_rng(0)
    if name == "colour":
        train = colours(600, 16, random).reshape(600, -1)
    elif name == "binary":
        train = (255 * (random.random((600, 576)) < 0.2)).astype(np.uint8)
    elif name == "extreme":
        train = (255 * (random.random((300, 4100)) < 0.5)).astype(np.uint8)
    elif name == "white":
        train = (255 - random.integers(0, 2, (400, 3072))).astype(np.uint8)
    elif name == "clusters":
        train = np.concatenate([random.integers(0, 3, (200, 3072)), random.integers(253, 256, (200, 3072))])
        train = train.astype(np.uint8)
    elif name == "many pixels":
        train = colours(40, 128, random).reshape(40, -1)
    elif name == "odd":
        train = random.integers(0, 256, (401, 1027), np.uint8)
    else:  # a training set in which every image has as many neighbours at the same distance as fit
        train = np.eye(300, dtype=np.uint8) * np.uint8(200)
    near = train[random.integers(0, len(train), 40)] + random.normal(0, 1, (40, train.shape[1])) * np.linspace(
        0, 60, 40
    )[:, None]  # fmt: skip
    return np.clip(near, 0, 255).astype(np.uint8), train


SETS = ["colour", "binary", "extreme", "white", "clusters", "many pixels", "odd", "ties"]


# Exact on every processor


@pytest.mark.parametrize("k", [2, 10])
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("engine", NAMES.values(), ids=NAMES)
def test_engine_is_exact(engine, name, k):
    query, base = sets(name)
    if engine is PRODUCTS and engines.fault(PRODUCTS, base.shape[1]) is not None:
        pytest.skip("this processor multiplies bytes wrongly, and integer products do not serve")
    assert same(search(engine, query, base, k), query, base)


@pytest.mark.parametrize("name", SETS)
def test_the_chosen_engine_is_exact(large, name):
    query, base = sets(name)
    *neighbours, engine = engines.nearest(query, base, 2)
    assert same(neighbours, query, base)
    assert engine in NAMES


@pytest.mark.parametrize("engine", EVERYWHERE, ids=lambda engine: engine.name)
@pytest.mark.parametrize("pixels", [1, 64, 3072, 49153])
def test_engine_has_no_fault(engine, pixels):
    assert engines.fault(engine, pixels) is None


@pytest.mark.exhaustive
@pytest.mark.parametrize("isa", LESSER)
def test_exact_on_a_lesser_processor(isa):
    """The tests above where oneDNN may use fewer instructions for torch's products of bytes."""
    chosen = "test_engine_is_exact or test_the_chosen_engine_is_exact or test_wrong_products"
    command = [sys.executable, "-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider", __file__, "-k", chosen]
    env = os.environ | {"ONEDNN_MAX_CPU_ISA": isa, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, env=env, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout[-4000:]
    assert " passed" in process.stdout


def test_wrong_products_of_this_processor_never_serve(large):
    """Here torch itself shows whether its products are right, not `fault`."""
    random = np.random.default_rng(1)
    signed = [torch.from_numpy(random.choice([-128, 127], shape).astype(np.int8)) for shape in ((60, 768), (200, 768))]
    products = torch.ops.aten._int_mm(signed[0], signed[1].T).numpy()
    expected = signed[0].numpy().astype(np.int64) @ signed[1].numpy().astype(np.int64).T
    if not np.array_equal(products, expected):
        assert engines.fault(PRODUCTS, 768) is not None
        assert PRODUCTS not in list(engines.engines(*sets("colour"), 2))


def test_blocks_meet(monkeypatch):
    """Blocks that end within the images, the pixels and the candidates."""
    for name, size in (("ROWS", 7), ("COLUMNS", 5), ("FLOAT_PIXELS", 100), ("BLOCK", 5000), ("BYTE_PIXELS", 600)):
        monkeypatch.setattr(exact, name, size)
    monkeypatch.setattr(rounding, "BLOCK", 5000)
    for name in ("odd", "ties"):
        query, base = sets(name)
        monkeypatch.setattr(flat, "FAISS_BLOCK", 9 * base.shape[1])
        able = [PRODUCTS] if engines.fault(PRODUCTS, base.shape[1]) is None else []
        for engine in EVERYWHERE + able:
            assert same(search(engine, query, base, 10), query, base)


# What rounding may do


def test_distances_of_faiss_are_within_the_bound():
    for name in SETS:
        query, base = sets(name)
        candidates, values = FAISS.propose(query, base, len(base))
        squared = exact.squared_distances(query, base, candidates)
        allowed = rounding.rounding(rounding.centred_norms(query, base), squared, base.shape[1])
        assert (np.abs(values - squared.astype(float)) <= allowed).all()
        assert (allowed < 0.05 * (squared + 255**2 * base.shape[1])).all()


def test_bound_of_one_distance_by_hand():
    """d = 2 pixels: gamma of 4 roundings, |q| = 3, D = 16."""
    eps = 2.0**-23
    assert rounding.rounding(np.array([3.0]), np.array([[16]]), 2)[0, 0] == pytest.approx(400 * eps / (1 - 4 * eps))
    assert rounding.rounding(np.array([0.0]), np.array([[0]]), 2**23).tolist() == [[np.inf]]


@pytest.mark.parametrize("name", ["white", "clusters", "colour", "odd"])
def test_neighbours_are_exact_where_rounding_is_as_bad_as_it_can_be(name):
    """An engine with the largest errors that float32 allows: the true neighbours look farther, all others nearer."""
    query, base = sets(name)
    pixels = base.shape[1]
    centre = rounding.centre(base)
    norms = [np.sqrt(((images - centre).astype(float) ** 2).sum(axis=1)) for images in (query, base)]
    relative = (pixels + 1) * 2.0**-24
    most = relative / (1 - relative) * (norms[0][:, None] + norms[1]) ** 2
    nearest, _ = brute_force(query, base, 5)
    sign = np.full(most.shape, -1.0)
    np.put_along_axis(sign, nearest, 1.0, 1)
    every = trials._exact_squared(query, base) + sign * most

    def propose(query, base, wanted):
        order = np.argsort(every, axis=1, kind="stable")[:, :wanted]
        return order, np.take_along_axis(every, order, 1)

    proposed, _ = propose(query, base, 2 + SLACK)
    hidden = [row for row, true in enumerate(nearest) if true[0] not in proposed[row]]
    assert bool(hidden) is (name in ("white", "clusters"))  # whose images have neighbours at nearly equal distances
    assert same(search(Engine("worst", propose, rounds=True), query, base, 2), query, base)


# Engines that fail


def swapped(values: np.ndarray) -> np.ndarray:
    return values[:, ::-1].copy()


FAULTS = {
    "wrong distances": lambda positions, values: (positions, values + 1),
    "no numbers": lambda positions, values: (positions, np.full(values.shape, np.nan)),
    "other images": lambda positions, values: (swapped(positions), values),
    "no image": lambda positions, values: (np.where(positions == positions[0, 0], -1, positions), values),
    "beyond the last": lambda positions, values: (positions + 10**6, values),
    "one image twice": lambda positions, values: (np.repeat(positions[:, :1], positions.shape[1], 1), values),
}


def broken(kind: str) -> Engine:
    def propose(query, base, wanted):
        return FAULTS[kind](*FLOATS.propose(query, base, wanted))

    return Engine("broken", propose)


@pytest.mark.parametrize("kind", FAULTS)
def test_engine_that_proves_wrong_on_the_images_is_replaced(monkeypatch, capsys, kind):
    query, base = sets("odd")
    monkeypatch.setattr(engines, "engines", lambda *arguments: iter([broken(kind), FAISS, FLOATS]))
    *neighbours, engine = engines.nearest(query, base, 2)
    assert engine == "faiss"
    assert same(neighbours, query, base)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: scored by faiss, as broken does not work here: ")


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), MemoryError(), AssertionError(), EngineError("x")])
def test_engine_that_raises_is_replaced(monkeypatch, capsys, error):
    def propose(query, base, wanted):
        raise error

    query, base = sets("odd")
    monkeypatch.setattr(engines, "engines", lambda *arguments: iter([Engine("broken", propose), FLOATS]))
    *neighbours, engine = engines.nearest(query, base, 2)
    assert engine == "float32 products"
    assert same(neighbours, query, base)
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("kind", [*FAULTS, "misses the nearest", "misses some"])
def test_trials_find_faults(kind):
    def misses(query, base, wanted):
        candidates, values = FLOATS.propose(query, base, min(wanted + 1, len(base)))
        keep = slice(1, None) if kind == "misses the nearest" or len(query) % 2 else slice(None, -1)
        return (candidates, values) if wanted == len(base) else (candidates[:, keep], values[:, keep])

    assert engines.fault(Engine("broken", misses) if kind.startswith("misses") else broken(kind), 768)


def test_products_that_overflow_are_found(monkeypatch, large):
    """As without VNNI: sums of two products are clipped to 16 bits."""

    def saturating(a, b):
        a, b = a.numpy().astype(np.int64) + 128, b.numpy().astype(np.int64)  # one side without signs
        products = a[:, :, None] * b[None]
        if products.shape[1] % 2:
            products = np.concatenate([products, np.zeros_like(products[:, :1])], axis=1)
        pairs = np.clip(products[:, ::2] + products[:, 1::2], -(2**15), 2**15 - 1)
        return torch.from_numpy((pairs.sum(axis=1) - 128 * b.sum(axis=0)).astype(np.int32))

    monkeypatch.setattr(torch.ops.aten, "_int_mm", saturating)
    monkeypatch.setattr(engines, "faster", lambda *arguments: True)
    assert engines.fault(PRODUCTS, 64) == "its distances are wrong"
    query, base = sets("odd")
    assert [engine.name for engine in engines.engines(query, base, 2)] == ["faiss", "float32 products"]


def test_products_that_there_are_not_do_not_serve(monkeypatch, large):
    def missing(a, b):
        raise NotImplementedError("_int_mm")

    monkeypatch.setattr(torch.ops.aten, "_int_mm", missing)
    query, base = sets("odd")
    assert engines.nearest(query, base, 2)[2] == "faiss"


def test_products_serve_only_where_they_are_faster(monkeypatch, large):
    if engines.fault(PRODUCTS, 1027) is not None:
        pytest.skip("this processor multiplies bytes wrongly")
    query, base = sets("odd")
    for quick, expected in ((True, "integer products"), (False, "faiss")):
        seconds = {PRODUCTS.name: 1.0 if quick else 3.0}
        monkeypatch.setattr(trials, "_seconds", lambda engine, *_, seconds=seconds: seconds.get(engine.name, 2.0))
        assert engines.nearest(query, base, 2)[2] == expected


def test_race_times_both():
    query, base = sets("colour")
    slow = Engine("slow", lambda *arguments: max((FLOATS.propose(*arguments) for _ in range(20)), key=len))
    assert engines.faster(FLOATS, slow, query, base)
    assert not engines.faster(slow, FLOATS, query, base)


def test_small_sets_are_compared_pixel_by_pixel():
    query, base = sets("odd")
    assert engines.nearest(query, base, 2)[2] == "pixels"


def test_products_of_bytes_are_not_tested_where_that_takes_longer(monkeypatch):
    monkeypatch.setattr(engines, "SMALL", 0)
    monkeypatch.setattr(trials, "_seconds", lambda *arguments: pytest.fail("no race"))
    assert engines.nearest(*sets("odd"), 2)[2] == "faiss"


def test_without_faiss_products_of_floats_serve(monkeypatch, large):
    monkeypatch.setitem(sys.modules, "faiss", None)  # import raises ImportError
    monkeypatch.setattr(engines, "faster", lambda *arguments: False)
    query, base = sets("colour")
    *neighbours, engine = engines.nearest(query, base, 2)
    assert engine == "float32 products"
    assert same(neighbours, query, base)


def test_on_macos_torch_and_faiss_are_not_loaded_together(monkeypatch, large):
    monkeypatch.setattr(sys, "platform", "darwin")
    query, base = sets("odd")
    assert "torch" in sys.modules
    assert [engine.name for engine in engines.engines(query, base, 2)] == ["float32 products"]
    monkeypatch.delitem(sys.modules, "torch")
    assert [engine.name for engine in engines.engines(query, base, 2)] == ["faiss", "float32 products"]
    assert "torch" not in sys.modules


# A GPU: here the same code computes on the processor, under the rules of a GPU


def gpu_products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Exact products of bytes on any processor, of only the sizes and layouts that torch allows on a GPU."""
    assert a.shape[0] > 16 and a.shape[1] > 0 and a.shape[1] % 8 == 0
    assert b.shape[1] > 0 and b.shape[1] % 8 == 0
    assert a.dtype == b.dtype == torch.int8 and a.stride(1) == b.stride(0) == 1  # rows of pixels on both sides
    return torch.from_numpy((a.double().numpy() @ b.double().numpy()).astype(np.int32))


def on_gpu(query: np.ndarray, base: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """What PRODUCTS_GPU does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.ops.aten, "_int_mm", gpu_products)
        return exact.by_products(query, base, wanted, "cpu")


def gpu_present(monkeypatch: pytest.MonkeyPatch, propose: Callable[..., tuple[np.ndarray, np.ndarray]]) -> None:
    """Let torch see a GPU on which an engine computes."""
    monkeypatch.setattr(engines, "gpu_present", lambda: True)
    monkeypatch.setattr(engines, "PRODUCTS_GPU", replace(PRODUCTS_GPU, propose=propose))


@pytest.mark.parametrize("name", SETS)
def test_engine_of_the_gpu_is_exact_and_comes_first(monkeypatch, large, capsys, name):
    gpu_present(monkeypatch, on_gpu)
    query, base = sets(name)
    *neighbours, engine = engines.nearest(query, base, 2)
    assert engine == "integer products on a GPU"
    assert same(neighbours, query, base)
    assert capsys.readouterr().err == ""


def test_blocks_of_the_gpu_meet(monkeypatch):
    """Blocks that end within the images and the pixels, with 64-bit sums, and with the fewest images per side."""
    monkeypatch.setattr(exact, "BYTE_PIXELS", 320)
    for images, size in ((48, 2**27), (2**12, 60_000), (2**12, 1)):
        monkeypatch.setattr(exact, "BYTE_IMAGES", images)
        monkeypatch.setattr(exact, "BYTE_BLOCK", size)
        for name in ("odd", "ties"):
            query, base = sets(name)
            assert same(search(Engine("on a GPU", on_gpu), query, base, 10), query, base)


@pytest.mark.parametrize("pixels", [exact.BYTE_PIXELS, exact.BYTE_PIXELS + 1])
def test_sums_of_the_gpu_do_not_overflow(pixels):
    """The largest and the smallest of |b|^2 - 2 q b, as it is stored on the device."""
    query = np.array([0, 255], np.uint8).repeat(pixels).reshape(2, pixels)
    base = np.array([0, 255, 128], np.uint8).repeat(pixels).reshape(3, pixels)
    assert same(search(Engine("on a GPU", on_gpu), query, base, 3), query, base)


@pytest.mark.parametrize("pixels", [70, exact.BYTE_PIXELS + 1])
def test_all_operations_of_the_gpu_are_on_the_gpu(monkeypatch, pixels):
    """Tensors without content, which torch keeps on a GPU that does not exist: mixing devices is an error."""
    fetched, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(exact, "BYTE_IMAGES", 48)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: fetched.append(tensor.device.type) or cpu(tensor))
    monkeypatch.setattr(torch.Tensor, "numpy", lambda tensor: np.zeros(tensor.shape, np.int64))
    with FakeTensorMode():
        candidates, values = PRODUCTS_GPU.propose(np.zeros((60, pixels), np.uint8), np.ones((100, pixels), np.uint8), 5)
    assert candidates.shape == values.shape == (60, 5)
    assert fetched == ["cuda"] * 4  # positions and distances of two blocks


def failing(kind: str) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    def propose(query, base, wanted):
        if kind == "no kernel":
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
        if kind == "memory" and len(query) > 33:  # not in the trials, only on the images
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 64.00 MiB.")
        candidates, values = on_gpu(query, base, wanted)
        return candidates, values + (kind == "overflow")

    return propose


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("no kernel", "no kernel image"), ("memory", "out of memory"), ("overflow", "its distances are wrong")],
)
def test_gpu_that_fails_leaves_the_images_to_the_processor(monkeypatch, large, capsys, kind, reason):
    gpu_present(monkeypatch, failing(kind))
    query, base = sets("odd")
    *neighbours, engine = engines.nearest(query, base, 2)
    assert engine in ("faiss", "integer products")
    assert same(neighbours, query, base)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: scored by {engine}, as integer products on a GPU does not work here: ")
    assert reason in line


def test_gpu_needs_no_faiss(monkeypatch, large):
    monkeypatch.setitem(sys.modules, "faiss", None)  # import raises ImportError
    query, base = sets("odd")
    gpu_present(monkeypatch, on_gpu)
    assert engines.nearest(query, base, 2)[2] == "integer products on a GPU"
    gpu_present(monkeypatch, failing("memory"))
    assert engines.nearest(query, base, 2)[2] in ("integer products", "float32 products")


def test_gpu_that_torch_only_claims_leaves_the_images_to_the_processor(monkeypatch, large):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.setattr(engines, "gpu_present", lambda: True)
    query, base = sets("odd")
    *neighbours, engine = engines.nearest(query, base, 2)
    assert engine in ("faiss", "integer products")
    assert same(neighbours, query, base)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", SETS)
def test_products_on_this_gpu_are_exact(name):
    query, base = sets(name)
    assert engines.fault(PRODUCTS_GPU, base.shape[1]) is None
    assert same(search(PRODUCTS_GPU, query, base, 2), query, base)
