"""One denoiser trained on one subset, resumable at any step; on a CPU a resumed run ends with the same bits.

The random numbers of step s come from a generator seeded by (run, s).  So the state to save is only the weights, their
averages and the optimizer.  Time is counted in training images seen.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from emmeter.data.subset import Subset
from emmeter.diffusion.precision import choose
from emmeter.diffusion.preconditioning import Denoiser, denoising_loss, preconditioning, to_unit
from emmeter.diffusion.unet import UNet
from emmeter.errors import StageError
from emmeter.machine.device import reseed
from emmeter.settings.sections import Setup
from emmeter.training import snapshots, state
from emmeter.training.batches import ahead, batches
from emmeter.training.compiling import compile_network
from emmeter.training.optimizer import FlatParameters, Optimizer
from emmeter.training.parallel import ALONE, Processes
from emmeter.training.schedule import budget, ema_decay, learning_rate_factor
from emmeter.training.seeds import derive


class Diverged(StageError):
    """The loss is no longer finite; the saved state of the run may hold numbers that are not finite either."""


def build(setup: Setup, shape: tuple[int, ...], label_count: int) -> Denoiser:
    """Make a denoiser with initial weights.

    The weights are laid out channels last, and activations follow.  On a CPU this makes convolutions 1.4 times and
    resampling 5 to 10 times as fast.

    Args:
        shape: of the images, (C, H, W).
        label_count: number of classes; 0 for an unconditional network.
    """
    network = UNet(setup.network, shape[-1], shape[0], label_count).to(memory_format=torch.channels_last)
    return Denoiser(network, preconditioning(setup.diffusion))


@dataclass
class Trainer:
    """The moving parts of one run."""

    setup: Setup
    n: int
    seed: int
    denoiser: Denoiser
    subset: Subset
    device: torch.device
    processes: Processes = ALONE
    step: int = 0  # steps made
    loss_steps: int = 0  # steps in `loss_sum`
    seconds_before: float = 0.0  # wall time of earlier processes of this run
    rows: list[dict[str, Any]] = field(default_factory=list)  # of training.csv
    kept: dict[int, str] = field(default_factory=dict)  # checksum of each snapshot's file so far, by index

    def __post_init__(self) -> None:
        self.budget = budget(self.setup, self.n)
        self.parameters = FlatParameters(self.denoiser.network, choose(self.setup.training.precision))
        self.optimizer = Optimizer(self.setup.training, self.parameters)
        self.averages = [self.parameters.values.clone() for _ in self.setup.training.ema_decays]
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
        training, seen = self.setup.training, self.step * self.setup.training.batch_size
        loss = denoising_loss(self.denoiser, self.denoiser.kind, *self._draw()).mean()
        loss.backward()
        rate = training.learning_rate * learning_rate_factor(seen, self.budget.lr_ramp)
        self.optimizer.step(rate, self.processes)
        common = training.batch_size if training.ema_warmup == "common" else None
        for average, final in zip(self.averages, training.ema_decays, strict=True):
            decay = ema_decay(seen, self.budget.ema_ramp, final, common)
            average.lerp_(self.parameters.values, 1 - decay)
        self.step += 1
        loss = loss.detach()
        self.loss_sum += loss
        self.loss_steps += 1
        return loss

    def _draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """This process's share of the next batch: images in [-1, 1], draws of noise levels, noise, labels.

        All random numbers of the step are drawn here in this order: noise levels, noise, flips.  Dropout follows.
        """
        training = self.setup.training
        if self.batches is None:
            fixed = training.order == "fixed"
            self.batches = ahead(batches(self.n, training.batch_size, self.seed, self.step, fixed), self.device)
        index = next(self.batches)
        reseed(derive(self.seed, "step", self.step), self.device)
        distribution = torch.rand if self.denoiser.kind.draw == "uniform" else torch.randn
        draw = distribution(len(index), device=self.device)
        images = to_unit(self.images[index])
        noise = torch.randn_like(images)
        if training.flip:
            mirrored = torch.rand(len(index), device=self.device) < training.flip
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        share = self.processes.share
        labels = None if self.labels is None else share(self.labels[index])
        if self.processes.rank:  # other dropout masks than those of rank 0, because the images are others
            reseed(derive(self.seed, "step", self.step, self.processes.rank), self.device)
        return share(images), share(draw), share(noise), labels

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
        views = [self.parameters.view(average) for average in self.averages]
        return [
            {name: view.get(name, value).detach().cpu().contiguous().clone() for name, value in weights.items()}
            for view in views
        ]

    def state(self) -> dict[str, Any]:
        """The content of a saved state, from which `restore` goes on with the same bits."""
        return {
            "step": self.step,
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
    compiled: Literal["auto", "never", "always"] = "never",
) -> Trainer:
    """Make the trainer of a run: from its saved state if there is one, otherwise from initial weights.

    Args:
        n: number of training images.
        replicate: number of the training seed, which is derived from (setup.seed, replicate, n).
        folder: the run's state folder.
        processes: the processes that train the run together.
        compiled: when to compile the network, as for `compile_network`.
    Raises:
        StageError: `compiled` is "always" on a machine that cannot compile.
    """
    seed = derive(setup.seed, "train", replicate, n)
    torch.manual_seed(derive(seed, "weights"))
    denoiser = build(setup, subset.images.shape[1:], subset.label_count).to(device).train()
    trainer = Trainer(setup, n, seed, denoiser, subset, device, processes)
    if saved := state.load(folder):
        if snapshots.intact(folder, saved["kept"]):
            trainer.restore(saved)
        else:
            print(f"{folder}: a snapshot is damaged; starting this run again", flush=True)
    compile_network(denoiser, trainer.budget.steps, device, compiled)
    return trainer
