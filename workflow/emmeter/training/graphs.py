"""CUDA graphs: a training step of a small network as one launch.

A small network's step is some hundreds of kernels that each take microseconds, and the host needs longer to launch them
than the GPU to run them.  A graph launches all of them at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # steps before the capture, in which libraries choose algorithms and reserve memory

Update = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class Graphed:
    """An update of `emmeter.training.trainer.Trainer`, which becomes a CUDA graph after its first steps.

    Random numbers that the update draws itself, for dropout, follow the generator's seed as they do without a graph.
    """

    def __init__(self, update: Update):
        self.update, self.calls = update, 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: list[Tensor | None] = []
        self.loss = torch.empty(0)

    def __call__(self, images: Tensor, draw: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        """Make one update; the loss () that is returned is overwritten by the next one."""
        inputs = (images, draw, noise, labels)
        if self.calls < WARM_UP:
            self.calls += 1
            return self._aside(inputs)
        if self.graph is None:
            self._capture(inputs)
        for buffer, tensor in zip(self.inputs, inputs, strict=True):
            if buffer is not None and tensor is not None:
                buffer.copy_(tensor)
        assert self.graph is not None
        self.graph.replay()
        return self.loss

    def _aside(self, inputs: tuple[Tensor, Tensor, Tensor, Tensor | None]) -> Tensor:
        """Update on a stream of its own, as torch asks for before a capture."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            loss = self.update(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        return loss

    def _capture(self, inputs: tuple[Tensor, Tensor, Tensor, Tensor | None]) -> None:
        """Record the operations of an update, without running them."""
        self.inputs = [None if tensor is None else tensor.clone() for tensor in inputs]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.loss = self.update(*self.inputs)  # type: ignore[arg-type]
        self.graph = graph
