"""Floating-point operations of a network: multiplications and additions of its matrix products.

Torch's own counter loads the compiler.  That takes 1.6 s, longer than training a tiny network for hundreds of steps.
Here, calls of the functions in ``torch.nn.functional`` are counted, for which their shapes suffice.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from emmeter.diffusion.networks import ScoreNetwork, build_network
from emmeter.settings.sections import Network


def forward(network: ScoreNetwork, shape: tuple[int, ...]) -> int:
    """Count the operations of one forward pass of one image; a multiplication and an addition count as two.

    The image passes through the network on the network's device.  On the meta device, nothing is computed.  The network
    and the random numbers stay as they are.

    Args:
        shape: (C, H, W) of the image.
    """
    device = next(network.parameters()).device
    label = None if network.label_embedding is None else torch.zeros(1, dtype=torch.int64, device=device)
    training = network.training
    network.eval()  # without dropout, so that no random number is drawn
    with torch.no_grad(), _Counter() as counter:
        network(torch.zeros(1, *shape, device=device), torch.ones(1, device=device), label)
    network.train(training)
    return counter.total


def planned(network: Network, shape: tuple[int, ...]) -> tuple[int, int]:
    """Count the operations and the parameters of a network without building it.

    Args:
        shape: (C, H, W) of an image, H = W.
    Returns:
        Operations of one forward pass of one image, as `forward` counts them, and the number of parameters without
        those of a label embedding.
    """
    with torch.device("meta"):
        unbuilt = build_network(network, shape[-1], shape[0])
    return forward(unbuilt, shape), sum(parameter.numel() for parameter in unbuilt.parameters())


class _Counter(TorchFunctionMode):
    """Sum of the operations of all products that are called in its context."""

    total = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _PRODUCTS:
            self.total += 2 * _PRODUCTS[func](result, *args)
        return result


# Multiplications of each function, from its result and its first arguments.  Each element of a convolution's result
# takes one filter.  For a transposed convolution, each element of the input does.
_PRODUCTS: dict[Callable[..., Any], Callable[..., int]] = {
    F.linear: lambda out, x, weight, *_: out.numel() * weight.shape[1],
    F.conv2d: lambda out, x, weight, *_: out.numel() * weight[0].numel(),
    F.conv_transpose2d: lambda out, x, weight, *_: x.numel() * weight[0].numel(),
    # Queries times keys, then weights times values.
    F.scaled_dot_product_attention: lambda out, q, k, v: (q.numel() + out.numel()) * k.shape[-2],
}
