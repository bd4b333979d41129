"""The device that a job computes on."""

import os

import torch

from emmeter.errors import StageError


def select(name: str, threads: int) -> torch.device:
    """The torch device for "auto", "cpu" or "cuda", with torch's thread pools set.

    Threads are bounded because jobs that together have more threads than the machine has cores wait for one another.
    Raises:
        StageError: "cuda" without a usable GPU.
    """
    torch.set_num_threads(threads)
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        among = "" if shown is None else f" (CUDA_VISIBLE_DEVICES = {shown!r})"
        raise StageError(
            f"execution.device = 'cuda', or execution.gpus: torch sees no GPU on this machine{among}; use auto or cpu"
        )
    if not available or name == "cpu":
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))  # one a process under torchrun
    torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = True  # batches of one size: the fastest algorithm is worth looking for
    return device


def reseed(value: int, device: torch.device) -> None:
    """Start the random numbers of the CPU and of `device` anew.

    `torch.manual_seed` does so for every kind of device that there might be: 60 microseconds, which small networks
    notice in every step.
    """
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)


def describe(device: torch.device) -> str:
    """Name of the device for the record."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
