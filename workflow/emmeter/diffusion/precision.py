"""The arithmetic of a network: float32, float32 with TF32 products, or bfloat16."""

import torch
from torch import nn

from emmeter.settings.types import Precision


def choose(precision: Precision) -> torch.dtype:
    """The type in which a network computes; lets or forbids a GPU to multiply float32 with TF32's 10 bits.

    Torch lets convolutions use TF32 unless told otherwise, so `float32` has to forbid it.  A CPU has no TF32.
    """
    tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def cast(network: nn.Module, dtype: torch.dtype) -> None:
    """Turn the parameters, and not the buffers (frequencies need all their digits), into `dtype`."""
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
