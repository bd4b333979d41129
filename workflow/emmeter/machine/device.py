"""The device on which a job computes."""

import os

import torch

from emmeter.errors import StageError


def select(name: str, threads: int) -> torch.device:
    """Return the torch device for "auto", "cpu" or "cuda", and set the number of torch's threads.

    The number of threads is limited, because jobs with more threads than cores in total slow each other down.

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
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))  # one per process under torchrun
    torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = True  # all batches have one size, so a search for the fastest algorithm pays
    return device


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
