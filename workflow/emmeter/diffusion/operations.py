"""Counting the floating-point operations of a network: multiplications and additions of its matrix products.

Torch's own counter loads the compiler, which takes longer (1.6 s) than training a tiny network for hundreds of steps;
counting where the functions of ``torch.nn.functional`` are called needs nothing but their shapes.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from emmeter.diffusion.unet import UNet
from emmeter.settings.sections import Network


def forward(network: UNet, shape: tuple[int, ...]) -> int:
    """Operations (a multiplication and an addition count as two) of one image of `shape` (C, H, W).

    The image passes through the network on its device; on the meta device that computes nothing.
    """
    device = next(network.parameters()).device
    label = None if network.label_embedding is None else torch.zeros(1, dtype=torch.int64, device=device)
    training = network.training
    network.eval()  # without dropout: no random number is drawn
    with torch.no_grad(), _Counter() as counter:
        network(torch.zeros(1, *shape, device=device), torch.ones(1, device=device), label)
    network.train(training)
    return counter.total


def planned(network: Network, shape: tuple[int, ...]) -> tuple[int, int]:
    """`forward` of a network that is not built, and the number of its parameters, labels left out."""
    with torch.device("meta"):
        unbuilt = UNet(network, shape[-1], shape[0])
    return forward(unbuilt, shape), sum(parameter.numel() for parameter in unbuilt.parameters())


class _Counter(TorchFunctionMode):
    """Adds up the operations of every product called in its context."""

    total = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _PRODUCTS:
            self.total += 2 * _PRODUCTS[func](result, *args)
        return result


# Multiplications of each function, from its result and its first arguments.  Every element of a convolution's result is
# a product with one filter; every element of a transposed convolution's input is multiplied with one.
_PRODUCTS: dict[Callable[..., Any], Callable[..., int]] = {
    F.linear: lambda out, x, weight, *_: out.numel() * weight.shape[1],
    F.conv2d: lambda out, x, weight, *_: out.numel() * weight[0].numel(),
    F.conv_transpose2d: lambda out, x, weight, *_: x.numel() * weight[0].numel(),
    # Queries with keys, then weights with values.
    F.scaled_dot_product_attention: lambda out, q, k, v: (q.numel() + out.numel()) * k.shape[-2],
}
