"""Training one denoiser on one subset, resumable at any instant, on a CPU with the same final bits.

Every random number of step s comes from a generator seeded by (run, s), so the state to save is only the weights,
their averages and the optimizer.  The clock is images seen.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from emmeter.data.subset import Subset
from emmeter.diffusion.precision import choose
from emmeter.diffusion.preconditioning import Denoiser, denoising_loss, preconditioning, to_unit
from emmeter.diffusion.unet import UNet
from emmeter.machine.device import reseed
from emmeter.machine.process import Stop
from emmeter.settings.sections import Setup
from emmeter.training import snapshots
from emmeter.training import state as training_state
from emmeter.training.batches import ahead, batches
from emmeter.training.optimizer import FlatParameters, Optimizer
from emmeter.training.parallel import ALONE, Processes
from emmeter.training.schedule import budget, ema_decay, learning_rate_factor
from emmeter.training.seeds import derive

LONG = 20_000  # steps from which compiling the network (about a minute, once for all N but under unique labels) pays


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which image, and why."""


class Diverged(TrainingError):
    """The loss is no longer a number; what was saved of the run may hold the same numbers."""


class Interrupted(Exception):
    """The process was asked to end; the state has been saved."""


def build(setup: Setup, shape: tuple[int, ...], label_count: int) -> Denoiser:
    """An initialized denoiser for images of `shape` (C, H, W), its weights laid out channels last.

    That layout makes convolutions 1.4 times and resampling 5 to 10 times as fast on a CPU; activations follow it.
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
    step: int = 0
    loss_steps: int = 0  # since the last row of the log
    seconds_before: float = 0.0  # wall time of earlier processes of this run
    rows: list[dict[str, Any]] = field(default_factory=list)
    kept: dict[int, str] = field(default_factory=dict)  # checksum of the file of each snapshot so far, by its index

    def __post_init__(self) -> None:
        self.budget = budget(self.setup, self.n)
        self.parameters = FlatParameters(self.denoiser.network, choose(self.setup.training.precision))
        self.optimizer = Optimizer(self.setup.training, self.parameters)
        self.averages = [self.parameters.values.clone() for _ in self.setup.training.ema_decays]
        # The whole training set stays on the device as uint8 and is indexed there: no loader processes.
        self.images = torch.from_numpy(self.subset.images).to(self.device)
        self.labels = torch.from_numpy(self.subset.labels).to(self.device) if self.subset.label_count else None
        self.batches: Iterator[Tensor] | None = None
        # On the device: reading a loss would make the host wait for the device in every step.
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.clock = time.monotonic()

    def advance(self) -> Tensor:
        """One optimizer step; returns the mean loss of its batch (of this process's share of it)."""
        training, seen = self.setup.training, self.step * self.setup.training.batch_size
        if self.batches is None:
            fixed = training.order == "fixed"
            self.batches = ahead(batches(self.n, training.batch_size, self.seed, self.step, fixed), self.device)
        index = next(self.batches)
        reseed(derive(self.seed, "step", self.step), self.device)  # noise levels, noise and dropout of this step
        kind, share = self.denoiser.kind, self.processes.share
        draw = (torch.rand if kind.draw == "uniform" else torch.randn)(len(index), device=self.device)
        images = to_unit(self.images[index])
        noise = torch.randn_like(images)
        if training.flip:
            mirrored = torch.rand(len(index), device=self.device) < training.flip
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        labels = None if self.labels is None else share(self.labels[index])
        if self.processes.rank:
            # Dropout of its own images.
            reseed(derive(self.seed, "step", self.step, self.processes.rank), self.device)
        loss = denoising_loss(self.denoiser, kind, share(images), share(draw), share(noise), labels).mean()
        loss.backward()
        rate = training.learning_rate * learning_rate_factor(seen, self.budget.lr_ramp)
        self.optimizer.step(rate, self.processes)
        for average, final in zip(self.averages, training.ema_decays, strict=True):
            common = training.batch_size if training.ema_warmup == "common" else None
            decay = ema_decay(seen, self.budget.ema_ramp, final, common)
            average.lerp_(self.parameters.values, 1 - decay)
        self.step += 1
        loss = loss.detach()
        self.loss_sum += loss
        self.loss_steps += 1
        return loss

    def mean_loss(self) -> float:
        """Of the steps since the last row of the log, over all processes.  Every process must ask."""
        self.processes.average(self.loss_sum)  # in place: one process writes the state that all of them resume from
        return self.loss_sum.item() / max(self.loss_steps, 1)

    def check(self, loss: float) -> None:
        """Raises Diverged where a loss is not finite.  A sum that was not finite once never is again."""
        training = self.setup.training
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss became {loss} after {self.step * training.batch_size} training images"
                f" (training.learning_rate = {training.learning_rate:g}); nothing of this run was kept"
            )

    def averaged(self) -> list[dict[str, Tensor]]:
        """State dicts of the network with the averaged weights, one for each EMA decay."""
        state = self.denoiser.network.state_dict()
        views = [self.parameters.view(average) for average in self.averages]
        return [
            {name: view.get(name, value).detach().cpu().contiguous().clone() for name, value in state.items()}
            for view in views
        ]

    def state(self) -> dict[str, Any]:
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
        self.step, self.rows, self.kept = saved["step"], saved["rows"], saved["kept"]
        self.loss_sum.fill_(saved["loss"][0])
        self.loss_steps = saved["loss"][1]
        self.seconds_before = saved["seconds"]
        self.parameters.assign(saved["parameters"])
        for name, value in saved["optimizer"].items():
            self.optimizer.state[name].copy_(value)
        for average, value in zip(self.averages, saved["averages"], strict=True):
            average.copy_(value)

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float | None]:
        """Denoising loss of the first EMA on training and on held-out images, with the same noise every time.

        The same number of images and the same draws on both sides: their difference is the memorization gap.
        """
        count = len(self.subset.held_out)
        count = min(count, self.n) if count else min(self.n, 64)
        generator = torch.Generator().manual_seed(derive(self.seed, "evaluation"))
        kind = self.denoiser.kind
        draw = (torch.rand if kind.draw == "uniform" else torch.randn)(count, generator=generator).to(self.device)
        noise = torch.randn(count, *self.subset.images.shape[1:], generator=generator).to(self.device)
        current = self.parameters.values.clone()
        self.parameters.assign(self.averages[0])
        self.denoiser.eval()

        def loss(images: np.ndarray, labels: np.ndarray) -> float:
            unit = to_unit(torch.from_numpy(images[:count]).to(self.device))
            given = torch.from_numpy(labels[:count]).to(self.device) if self.labels is not None else None
            return denoising_loss(self.denoiser, kind, unit, draw, noise, given).mean().item()

        train = loss(self.subset.images, self.subset.labels)
        held_out = loss(self.subset.held_out, self.subset.held_out_labels) if len(self.subset.held_out) else None
        self.denoiser.train()
        self.parameters.assign(current)
        return train, held_out

    def log(self) -> dict[str, Any]:
        seen = self.step * self.setup.training.batch_size
        mean = self.mean_loss()
        self.check(mean)
        train, held_out = self.evaluate()
        for loss in (train, held_out):  # the loss of a step does not see its own update, so nor the last one
            self.check(0.0 if loss is None else loss)
        factor = learning_rate_factor(seen, self.budget.lr_ramp)
        row = {
            "images_seen": seen,
            "progress": self.step / self.budget.steps,
            "learning_rate": self.setup.training.learning_rate * factor,
            "loss": mean,
            "train_loss": train,
            "held_out_loss": held_out,
        }
        self.loss_sum.zero_()
        self.loss_steps = 0
        self.rows.append(row)
        return row


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
    """The trainer of a run: from its saved state in `folder` where there is one, else from initialized weights.

    `compiled`: whether the network is compiled; "auto" decides by the length of the whole run, so that a resumed run
    computes as it began.
    """
    seed = derive(setup.seed, "train", replicate, n)
    torch.manual_seed(derive(seed, "weights"))
    denoiser = build(setup, subset.images.shape[1:], subset.label_count).to(device).train()
    trainer = Trainer(setup, n, seed, denoiser, subset, device, processes)
    if saved := training_state.load(folder):
        if snapshots.intact(folder, saved["kept"]):
            trainer.restore(saved)
        else:
            print(f"{folder}: a snapshot is damaged; starting this run again", flush=True)
    if compiled == "always" or (compiled == "auto" and trainer.budget.steps >= LONG):
        if compiled == "auto":  # nobody asked for it: without a working compiler the network is trained as it is
            from torch import _dynamo  # two seconds, which torch.compile takes in any case

            _dynamo.config.suppress_errors = True
        else:
            check_compiler(device)
        # Evaluation, whose batches have other sizes, stays as it is.
        denoiser.compiled = torch.compile(denoiser.network.forward, dynamic=False)
    return trainer


def check_compiler(device: torch.device) -> None:
    """Compile next to nothing.  Raises TrainingError where that fails, as on a machine without a compiler."""
    from torch import _dynamo

    try:
        with _dynamo.config.patch(suppress_errors=False):
            torch.compile(lambda x: x.sin() + 1)(torch.ones(4, device=device))
    except Exception as error:  # of every compiler its own kind
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        why = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
        raise TrainingError(f"execution.compile = 'always': this machine cannot ({why}); use auto or never") from None


def train(trainer: Trainer, folder: Path, state_seconds: float, stop: Stop) -> Iterator[int]:
    """Train to the end of the budget, yielding the number of every step.

    State is saved to `folder` every `state_seconds`, and at once when `stop` is set, by the process that writes.
    Raises:
        Interrupted: `stop` was set; the state has been saved.
        Diverged: the loss is no longer finite.
        OSError: state or snapshots cannot be written.
    """
    last_save, processes = time.monotonic(), trainer.processes
    # A loss on a CPU is there to be looked at; a GPU is asked when a snapshot, a row or the state is due.
    on_host = trainer.device.type == "cpu" and processes.size == 1
    while trainer.step < trainer.budget.steps:
        loss = trainer.advance()
        if on_host:
            trainer.check(loss.item())
        if trainer.step in trainer.budget.log:  # as all snapshots are
            trainer.log()
        if processes.writes:
            for index, step in enumerate(trainer.budget.snapshots):
                if step == trainer.step:
                    trainer.kept[index] = snapshots.keep(folder, index, trainer.averaged())
        yield trainer.step
        stopping, due = stop.is_set(), time.monotonic() - last_save > state_seconds
        # One exchange for both: all processes do what the first one sees.
        stopping, due = divmod(processes.first(2 * stopping + (due or stopping)), 2)
        if due:
            trainer.check(trainer.mean_loss())
            if processes.writes:
                training_state.save(folder, trainer.state())
            last_save = time.monotonic()
        if stopping:
            raise Interrupted
