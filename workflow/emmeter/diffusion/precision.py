"""The arithmetic of a network: float32, float32 with TF32 products, or bfloat16."""

import torch
from torch import nn

from emmeter.settings.types import Precision


def choose(precision: Precision) -> torch.dtype:
    """Choose the type in which a network computes, and whether a GPU may multiply float32 with the 10 bits of TF32.

    Torch allows TF32 in convolutions by default, so `float32` must forbid it.  A CPU has no TF32.
    """
    tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def cast(network: nn.Module, dtype: torch.dtype) -> None:
    """Convert the parameters of a network to `dtype`, in place.

    Buffers keep their type, because frequencies need all their digits.
    """
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
