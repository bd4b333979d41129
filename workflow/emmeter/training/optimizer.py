"""The optimizer over one flat buffer of parameters.

All weights of a network are views of one tensor, so that an update, an average or a save is one operation and not one
for each of a hundred small tensors: for small networks on a CPU that is a tenth of a training step.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from emmeter.settings.sections import Training
from emmeter.training.parallel import ALONE, Processes

BETAS, EPSILON = (0.9, 0.999), 1e-8


class FlatParameters:
    """The parameters of a module, moved into one tensor of which they become views.

    ``values`` (P,) float32 are the weights.  The module computes with ``computed``, which is the same tensor, or its
    copy in another type; parameters keep their shapes and memory layouts.  Autograd adds into ``gradients`` (P,), of
    the type of ``computed``.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype = torch.float32):
        self.places: dict[str, tuple[int, torch.Size, tuple[int, ...]]] = {}
        parameters = dict(module.named_parameters())
        total = 0
        for name, parameter in parameters.items():
            self.places[name] = (total, parameter.shape, parameter.stride())
            total += parameter.numel()
        first = next(iter(parameters.values()))
        self.values = torch.empty(total, dtype=torch.float32, device=first.device)
        for name, view in self.view(self.values).items():
            view.copy_(parameters[name].detach())
        self.computed = self.values.to(dtype)  # itself where the types are equal
        self.gradients = torch.zeros_like(self.computed)
        views, gradients = self.view(self.computed), self.view(self.gradients)
        for name, parameter in parameters.items():
            parameter.data = views[name]
            parameter.grad = gradients[name]

    def view(self, flat: Tensor) -> Mapping[str, Tensor]:
        """A tensor like `values` as named parameters."""
        return {name: flat.as_strided(shape, stride, start) for name, (start, shape, stride) in self.places.items()}

    def assign(self, flat: Tensor) -> None:
        """Set `values` to those of a tensor like them."""
        self.values.copy_(flat)
        self.refresh()

    def refresh(self) -> None:
        """Let the module compute with the present `values`; called after each change of them in place."""
        if self.computed is not self.values:
            self.computed.copy_(self.values)


class Optimizer:
    """Adam (0.9, 0.999, 1e-8) or SGD with momentum; weight decay enters the gradient unless ``decoupled``."""

    def __init__(self, settings: Training, parameters: FlatParameters):
        self.settings, self.parameters = settings, parameters
        zeros = torch.zeros_like(parameters.values)
        self.state = {"first": zeros, "second": zeros.clone(), "step": torch.zeros((), device=zeros.device)}

    @torch.no_grad()
    def step(self, learning_rate: float, processes: Processes = ALONE) -> None:
        """Update the parameters with their gradients, averaged over the processes, then clear these."""
        settings, values = self.settings, [self.parameters.values]
        gradients = [self.parameters.gradients.to(torch.float32)]
        processes.average(gradients[0])
        first, second, step = ([self.state[name]] for name in ("first", "second", "step"))
        if settings.decoupled and settings.weight_decay:
            values[0].mul_(1 - learning_rate * settings.weight_decay)
        coupled = 0.0 if settings.decoupled else settings.weight_decay
        if settings.optimizer == "sgd":
            momentum_buffers: list[Tensor | None] = [*first]
            sgd(
                values, gradients, momentum_buffers, weight_decay=coupled, momentum=settings.momentum, lr=learning_rate,
                dampening=0.0, nesterov=False, maximize=False, fused=True,
            )  # fmt: skip
        else:
            adam(
                values, gradients, first, second, [], step, fused=True, amsgrad=False, beta1=BETAS[0], beta2=BETAS[1],
                lr=learning_rate, weight_decay=coupled, eps=EPSILON, maximize=False,
            )  # fmt: skip
        self.parameters.gradients.zero_()
        self.parameters.refresh()
