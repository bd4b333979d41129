"""FAISS's flat index, on the CPU or on a GPU."""

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from emmeter.measure.engines.contract import Engine, EngineError, blocks
from emmeter.measure.engines.rounding import centre
from emmeter.measure.engines.trials import fault

FAISS_BLOCK = 2**25  # float32 pixels that FAISS holds at once
GPU_SCRATCH = 2**28  # bytes that FAISS reserves for itself on a GPU, which several jobs may share


def by_faiss(query: np.ndarray, base: np.ndarray, wanted: int, gpu: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Search with FAISS's flat index in float32, on pixels minus those of a centre; `rounding` bounds its error.

    Args:
        gpu: FAISS's resources of the GPU to use, if any.
    """
    pixels = base.shape[1]
    index, middle = _flat_index(pixels, gpu), centre(base)
    candidates = np.full((len(query), wanted), -1, np.int64)
    values = np.full((len(query), wanted), np.inf, np.float32)
    size = max(1, FAISS_BLOCK // pixels)
    for columns in blocks(len(base), size):
        index.reset()
        index.add(base[columns] - middle)
        for rows in blocks(len(query), size):
            distances, positions = index.search(query[rows] - middle, min(wanted, columns.stop - columns.start))
            distances = np.concatenate([values[rows], distances], axis=1)
            positions = np.concatenate([candidates[rows], positions + columns.start], axis=1)
            order = np.argsort(distances, axis=1, kind="stable")[:, :wanted]
            values[rows], candidates[rows] = (np.take_along_axis(part, order, 1) for part in (distances, positions))
    return candidates, values


def _flat_index(pixels: int, gpu: Any) -> Any:
    import faiss

    if gpu is None:
        return faiss.IndexFlatL2(pixels)
    config = faiss.GpuIndexFlatConfig()
    config.device = 0  # the first of those that the job sees
    config.use_cuvs = False  # cuVS rounds in ways that `rounding` does not cover
    return faiss.GpuIndexFlatL2(gpu, pixels, config)


def by_faiss_gpu(query: np.ndarray, base: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Search as `by_faiss` does, on a GPU and in a process of its own.

    FAISS ends its process when a call of CUDA fails, for example on a GPU that it was not built for, or without memory.

    Raises:
        EngineError: the process has failed, or FAISS's distances on the GPU are wrong.
    """
    code = "from emmeter.measure.engines.flat import serve; serve()"
    package = str(Path(__file__).parents[3])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    sizes = np.array([len(query), len(base), base.shape[1], wanted], np.int64)
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=answer, stderr=complaints,
            env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        assert process.stdin is not None
        try:
            with process.stdin as pipe:
                pipe.write(sizes.tobytes())
                for images in (query, base):
                    pipe.write(np.ascontiguousarray(images).data)
        except BrokenPipeError:
            pass  # the process has ended, and its status is checked below
        finally:
            status = process.wait()
        answer.seek(0)
        complaints.seek(0)
        content = answer.read()
        shape, count = (len(query), wanted), len(query) * wanted
        if status != 0 or len(content) != 12 * count:
            lines = complaints.read().decode(errors="replace").strip().splitlines()
            raise EngineError(f"its process has ended with status {status}{f', {lines[-1]}' if lines else ''}")
    candidates = np.frombuffer(content, np.int64, count).reshape(shape)
    return candidates.copy(), np.frombuffer(content, np.float32, count, 8 * count).reshape(shape)


def serve() -> None:
    """Run the process of `by_faiss_gpu`: images from standard input, candidates and distances to standard output."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print to standard output, too
    count, stored, pixels, wanted = np.frombuffer(sys.stdin.buffer.read(32), np.int64).tolist()
    query, base = (
        np.frombuffer(sys.stdin.buffer.read(rows * pixels), np.uint8).reshape(rows, pixels) for rows in (count, stored)
    )
    import faiss

    gpu = faiss.StandardGpuResources()
    gpu.setTempMemory(GPU_SCRATCH)
    on_gpu = Engine("faiss-gpu", partial(by_faiss, gpu=gpu), rounds=True)
    if (reason := fault(on_gpu, pixels)) is not None:
        sys.exit(reason)
    candidates, values = on_gpu.propose(query, base, wanted)
    with answer:
        answer.write(np.ascontiguousarray(candidates, np.int64).tobytes())
        answer.write(np.ascontiguousarray(values, np.float32).tobytes())


FAISS = Engine("faiss", by_faiss, rounds=True)
FAISS_GPU = Engine("faiss-gpu", by_faiss_gpu, rounds=True)
