"""The device on which a job computes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from emmeter.errors import StageError

# Environment variable: processes of torch's compiler.  By default each job starts one per core.
COMPILERS = "TORCHINDUCTOR_COMPILE_THREADS"
# Batches of one size from which cuDNN's search pays.  For each convolution, and each of its gradients, cuDNN prepares
# and runs up to 10 algorithms.  This is estimated to take as long as some hundreds of batches.
SEARCH = 1000


def select(name: str, threads: int) -> torch.device:
    """Return the torch device for "auto", "cpu" or "cuda", and set the numbers of threads and compilers of torch.

    They are limited, because jobs with more threads than cores in total slow each other down.  If the user has set the
    variable COMPILERS, it stays.

    Raises:
        StageError: "cuda" without a usable GPU.
    """
    torch.set_num_threads(threads)
    os.environ.setdefault(COMPILERS, str(threads))
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        among = "" if shown is None else f" (CUDA_VISIBLE_DEVICES = {shown!r})"
        raise StageError(
            f"execution.device = 'cuda', or execution.gpus: torch sees no GPU on this machine{among}; use auto or cpu"
        )
    if not available or name == "cpu":
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))  # one per process under torchrun
    torch.cuda.set_device(device)
    return device


@contextmanager
def fastest_convolutions(batches: int) -> Iterator[None]:
    """Let cuDNN search for the fastest algorithm of each convolution in the block, if the search pays.

    cuDNN searches again for each shape that is new in the process.  Outside of such blocks its heuristics choose.

    Args:
        batches: batches of one size that this process still computes.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = batches >= SEARCH
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def reseed(value: int, device: torch.device) -> None:
    """Seed the random numbers of the CPU and of `device`.

    `torch.manual_seed` seeds every kind of device.  That takes 60 microseconds, which matters in each step of small
    networks.
    """
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)


def describe(device: torch.device) -> str:
    """The name of the device, for the record."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
