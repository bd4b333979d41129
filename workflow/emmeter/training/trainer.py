"""One denoiser trained on one subset, resumable at any step; on a CPU a resumed run ends with the same bits.

The random numbers of step s come from a generator seeded by (run, s).  So the state to save is only the weights, their
averages and the optimizer.  Time is counted in training images seen.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emmeter.data.subset import Subset
from emmeter.diffusion.layers import NO_LABEL
from emmeter.diffusion.networks import build_network
from emmeter.diffusion.precision import choose
from emmeter.diffusion.preconditioning import Denoiser, preconditioning, to_unit
from emmeter.errors import StageError
from emmeter.machine.device import reseed
from emmeter.machine.process import Stop
from emmeter.settings.sections import Setup
from emmeter.training import architecture, packages, snapshots, state
from emmeter.training.batches import ahead, batches
from emmeter.training.functions import gradient_function
from emmeter.training.graphs import Graphed
from emmeter.training.optimizer import FlatParameters, Optimizer
from emmeter.training.packages import Package, When
from emmeter.training.parallel import ALONE, Processes
from emmeter.training.schedule import budget, ema_decay, learning_rate_factor
from emmeter.training.seeds import derive


class Diverged(StageError):
    """The loss is no longer finite; the saved state of the run may hold numbers that are not finite either."""


def build(setup: Setup, shape: tuple[int, ...], label_count: int, vectors: np.ndarray | None = None) -> Denoiser:
    """Make a denoiser with initial weights.

    The weights are laid out channels last, and activations follow.  On a CPU this makes convolutions 1.4 times and
    resampling 5 to 10 times as fast.

    Args:
        shape: of the images, (C, H, W).
        label_count: number of classes; 0 for an unconditional network.
        vectors: `Subset.label_vectors`.
    """
    table = None if vectors is None else torch.from_numpy(vectors)
    network = build_network(setup.network, shape[-1], shape[0], label_count, table)
    network = network.to(memory_format=torch.channels_last)
    return Denoiser(network, preconditioning(setup.diffusion, setup.training.sigma_min))


@dataclass
class Trainer:
    """The moving parts of one run.

    `package` computes loss and gradient, or eager PyTorch if there is none.
    """

    setup: Setup
    n: int
    seed: int
    denoiser: Denoiser
    subset: Subset
    device: torch.device
    processes: Processes = ALONE
    package: Package | None = None
    step: int = 0  # steps made
    loss_steps: int = 0  # steps in `loss_sum`
    seconds_before: float = 0.0  # wall time of earlier processes of this run
    rows: list[dict[str, Any]] = field(default_factory=list)  # of training.csv
    kept: dict[int, str] = field(default_factory=dict)  # checksum of each snapshot's file so far, by index

    def __post_init__(self) -> None:
        self.budget = budget(self.setup, self.n)
        self.parameters = FlatParameters(self.denoiser.network, choose(self.setup.training.precision))
        self.optimizer = Optimizer(self.setup.training, self.parameters)
        self.gradient = gradient_function(self.denoiser, self.parameters, self.package)
        self.averages = [self.parameters.values.clone() for _ in self.setup.training.ema_decays]
        # 1 - decay of the next update of each average: tensors, as the learning rate is, for CUDA graphs.
        self.weights = [torch.zeros((), device=self.device) for _ in self.averages]
        # The whole training set stays on the device as uint8 and is indexed there, without loader processes.
        self.images = torch.from_numpy(self.subset.images).to(self.device)
        self.labels = torch.from_numpy(self.subset.labels).to(self.device) if self.subset.label_count else None
        self.batches: Iterator[Tensor] | None = None
        # Sum of the losses since the last row of the log.  It stays on the device: reading a loss in each step would
        # make the host wait for the device.
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.clock = time.monotonic()

    def advance(self) -> Tensor:
        """Make one optimizer step; return the mean loss of this process's share of the batch, before the update."""
        self.schedule()
        loss = self.update(*self._draw())
        self.step += 1
        self.loss_steps += 1
        return loss

    def schedule(self) -> None:
        """Set learning rate and decays of the next step."""
        training, seen = self.setup.training, self.step * self.setup.training.batch_size
        self.optimizer.rate.fill_(training.learning_rate * learning_rate_factor(seen, self.budget.lr_ramp))
        common = training.batch_size if training.ema_warmup == "common" else None
        for weight, final in zip(self.weights, training.ema_decays, strict=True):
            weight.fill_(1 - ema_decay(seen, self.budget.ema_ramp, final, common))

    def update(self, images: Tensor, draw: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        """Update weights, optimizer, averages and the sum of losses by one batch, as `_draw` makes it; return its loss.

        Everything that changes from step to step is in tensors, so that a CUDA graph can capture this function.
        """
        loss, gradient = self.gradient(images, self.denoiser.kind.training_sigma(draw), noise, labels)
        self.processes.average(gradient)
        self.optimizer.step(gradient)
        for average, weight in zip(self.averages, self.weights, strict=True):
            average.lerp_(self.parameters.values, weight)
        self.loss_sum += loss
        return loss

    def _draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """This process's share of the next batch: images in [-1, 1], draws of noise levels, noise, labels.

        All random numbers of the step are drawn here in this order: noise levels, noise, flips, labels that are left
        out.  Dropout follows.
        """
        training = self.setup.training
        if self.batches is None:
            entries, fixed = len(self.images), training.order == "fixed"
            self.batches = ahead(batches(entries, training.batch_size, self.seed, self.step, fixed), self.device)
        index = next(self.batches)
        reseed(derive(self.seed, "step", self.step), self.device)
        distribution = torch.rand if self.denoiser.kind.draw == "uniform" else torch.randn
        draw = distribution(len(index), device=self.device)
        images = to_unit(self.images[index])
        noise = torch.randn_like(images)
        if training.flip:
            mirrored = torch.rand(len(index), device=self.device) < training.flip
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        labels = None if self.labels is None else self.labels[index]
        if labels is not None and training.label_dropout:
            dropped = torch.rand(len(index), device=self.device) < training.label_dropout
            labels = torch.where(dropped, NO_LABEL, labels)
        share = self.processes.share
        if self.processes.rank:  # other dropout masks than those of rank 0, because the images are others
            reseed(derive(self.seed, "step", self.step, self.processes.rank), self.device)
        return share(images), share(draw), share(noise), None if labels is None else share(labels)

    def mean_loss(self) -> float:
        """Mean loss of the steps since the last row of the log, over all processes.  Every process must call this."""
        self.processes.average(self.loss_sum)  # in place: one process writes the state from which all of them resume
        return self.loss_sum.item() / max(self.loss_steps, 1)

    def check(self, loss: float) -> None:
        """Check that a loss, or a sum of losses, is finite.  Once a sum is not finite, it stays so.

        Raises:
            Diverged: the loss is not finite.
        """
        training = self.setup.training
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss became {loss} after {self.step * training.batch_size} training images"
                f" (training.learning_rate = {training.learning_rate:g}); nothing of this run was kept"
            )

    def averaged(self) -> list[dict[str, Tensor]]:
        """State dicts of the network with the averaged weights, one per EMA decay, copied to the CPU."""
        weights = self.denoiser.network.state_dict()
        views = [self.parameters.view(average.cpu()) for average in self.averages]  # one copy from the device each
        return [
            {name: view.get(name, value).detach().cpu().contiguous().clone() for name, value in weights.items()}
            for view in views
        ]

    def state(self) -> dict[str, Any]:
        """The content of a saved state, from which `restore` goes on with the same bits."""
        return {
            "step": self.step,
            "package": self.package.key if self.package else None,
            "parameters": self.parameters.values,
            "averages": self.averages,
            "optimizer": self.optimizer.state,
            "loss": [self.loss_sum.item(), self.loss_steps],
            "rows": self.rows,
            "kept": self.kept,
            "seconds": self.seconds_before + time.monotonic() - self.clock,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Take over the content of a saved state of the same run."""
        self.step, self.rows, self.kept = saved["step"], saved["rows"], saved["kept"]
        self.loss_sum.fill_(saved["loss"][0])
        self.loss_steps = saved["loss"][1]
        self.seconds_before = saved["seconds"]
        self.parameters.assign(saved["parameters"])
        for name, value in saved["optimizer"].items():
            self.optimizer.state[name].copy_(value)
        for average, value in zip(self.averages, saved["averages"], strict=True):
            average.copy_(value)


def start(
    setup: Setup,
    subset: Subset,
    n: int,
    replicate: int,
    device: torch.device,
    folder: Path,
    processes: Processes = ALONE,
    compiled: When = "never",
    stop: Stop | None = None,
) -> Trainer:
    """Make the trainer of a run: from its saved state if there is one, otherwise from initial weights.

    A resumed run computes as it began, by the same package or by eager PyTorch.  If its package is gone and cannot be
    built again, for example on another processor, the run starts again.

    Args:
        n: number of different training images.
        replicate: number of the training seed, which is derived from (setup.seed, replicate, n).
        folder: the run's state folder.
        processes: the processes that train the run together.
        compiled: whether to use a package, as for `packages.provided`.  Unless "never", one GPU runs the steps as a
            CUDA graph.
        stop: when set, a build of a package ends.
    Raises:
        Interrupted: `stop` was set during a build.
        PackageError: `compiled` is "always" on a machine that cannot compile.
    """
    seed = derive(setup.seed, "train", replicate, n)
    torch.manual_seed(derive(seed, "weights"))
    denoiser = build(setup, subset.images.shape[1:], subset.label_count, subset.label_vectors).to(device).train()
    recipe = packages.here(architecture.of_step(setup, subset.images.shape[1:], processes.size), device)
    saved = state.load(folder)
    if saved and not snapshots.intact(folder, saved["kept"]):
        print(f"{folder}: a snapshot is damaged; starting this run again", flush=True)
        saved = None
    package = None
    if saved and (before := saved.get("package")):
        package = packages.provided(recipe, "build", stop) if before == recipe.key else None
        if package is None:
            print(f"{folder}: this machine lacks the package {before}; starting this run again", flush=True)
            saved = None
    if not saved:
        package = packages.provided(recipe, compiled, stop)
    if processes.first(int(package is not None)) != int(package is not None):
        raise packages.PackageError(f"{recipe.path}: does not load in all processes of this run; delete it")
    trainer = Trainer(setup, n, seed, denoiser, subset, device, processes, package)
    if device.type == "cuda" and processes.size == 1 and compiled != "never":
        trainer.update = Graphed(trainer.update)  # type: ignore[method-assign]
    if saved:
        trainer.restore(saved)
    return trainer
