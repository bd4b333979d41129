"""Rows of training.csv: the course of the loss."""

from typing import Any

import numpy as np
import torch

from emmeter.diffusion.preconditioning import denoising_loss, to_unit
from emmeter.training.schedule import learning_rate_factor
from emmeter.training.seeds import derive
from emmeter.training.trainer import Trainer

FEW = 64  # training images at most that are evaluated where there are no held-out images


def append(trainer: Trainer) -> dict[str, Any]:
    """Append a row to the trainer's log and return it; the mean loss starts again from here.

    Raises:
        Diverged: a loss is not finite.
    """
    seen = trainer.step * trainer.setup.training.batch_size
    mean = trainer.mean_loss()
    trainer.check(mean)
    train, held_out = evaluate(trainer)
    for loss in (train, held_out):  # a step's loss is computed before its update, so the last update is checked here
        trainer.check(0.0 if loss is None else loss)
    row = {
        "images_seen": seen,
        "progress": trainer.step / trainer.budget.steps,
        "learning_rate": trainer.setup.training.learning_rate * learning_rate_factor(seen, trainer.budget.lr_ramp),
        "loss": mean,
        "train_loss": train,
        "held_out_loss": held_out,
    }
    trainer.loss_sum.zero_()
    trainer.loss_steps = 0
    trainer.rows.append(row)
    return row


@torch.no_grad()
def evaluate(trainer: Trainer) -> tuple[float, float | None]:
    """Denoising loss of the first average on training and on held-out images; None without held-out images.

    Both losses use the same number of images, noise levels and noise, and every evaluation of a run uses the same ones.
    So the difference of the losses is the memorization gap.
    """
    subset, parameters, denoiser = trainer.subset, trainer.parameters, trainer.denoiser
    count = min(len(subset.held_out) or FEW, trainer.n)
    generator = torch.Generator().manual_seed(derive(trainer.seed, "evaluation"))
    kind = denoiser.kind
    draw = (torch.rand if kind.draw == "uniform" else torch.randn)(count, generator=generator).to(trainer.device)
    noise = torch.randn(count, *subset.images.shape[1:], generator=generator).to(trainer.device)
    current = parameters.values.clone()
    parameters.assign(trainer.averages[0])
    denoiser.eval()

    def loss(images: np.ndarray, labels: np.ndarray) -> float:
        unit = to_unit(torch.from_numpy(images[:count]).to(trainer.device))
        given = torch.from_numpy(labels[:count]).to(trainer.device) if trainer.labels is not None else None
        return denoising_loss(denoiser, kind, unit, draw, noise, given).mean().item()

    train = loss(subset.images, subset.labels)
    held_out = loss(subset.held_out, subset.held_out_labels) if len(subset.held_out) else None
    denoiser.train()
    parameters.assign(current)
    return train, held_out
