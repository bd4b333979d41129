"""What the examples share: they read the subset, train, survive a kill, and write samples, without emmeter."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn


@dataclass(frozen=True)
class Job:
    images: Tensor  # float32 (N, C, H, W) from -1 to 1
    labels: Tensor | None  # int64 (N,) below `classes`; None without labels
    classes: int
    options: argparse.Namespace

    def train(self, model: nn.Module, loss: Callable[[Tensor, Tensor | None, Generator], Tensor]) -> None:
        """Minimize loss(images, labels, generator) with Adam, from where an earlier job of this run has stopped."""
        options, file, stops = self.options, self.options.state / "state.pt", []
        steps, done, saved = options.train // options.batch, 0, time.monotonic()
        optimizer = torch.optim.Adam(model.parameters(), options.rate)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.rate, steps, pct_start=0.1, cycle_momentum=False)
        parts = {"model": model, "optimizer": optimizer, "rate": rate}
        signal.signal(signal.SIGTERM, lambda number, _: stops.append(number))
        if file.is_file():
            content = torch.load(file, weights_only=True)
            done = content.pop("done")
            for name, part in parts.items():
                part.load_state_dict(content[name])
        for step in range(done + 1, steps + 1):  # each step has its own generator, so a resumed run has the same bits
            generator = Generator().manual_seed(1_000_003 * options.seed + step)
            chosen = torch.randint(len(self.images), (options.batch,), generator=generator)
            optimizer.zero_grad()
            loss(self.images[chosen], None if self.labels is None else self.labels[chosen], generator).backward()
            optimizer.step()
            rate.step()
            if stops or step == steps or time.monotonic() - saved > 30:  # seconds
                torch.save({"done": step} | {name: part.state_dict() for name, part in parts.items()}, f"{file}.new")
                os.replace(f"{file}.new", file)  # the whole file or none
                saved = time.monotonic()
                print(f"{step}/{steps} steps", flush=True)
            if stops:
                sys.exit(143)  # not finished: the same command goes on
        model.eval()

    def noise(self) -> tuple[Tensor, Tensor | None]:
        """Normal noise to generate from, and labels: those in use, equally often."""
        count, generator = self.options.images, Generator().manual_seed(1_000_003 * self.options.seed)
        labels = None if self.labels is None else self.labels.unique().repeat(count)[:count]
        return torch.randn(count, *self.images.shape[1:], generator=generator), labels

    def write(self, images: Tensor, model: nn.Module) -> None:
        """Write images from -1 to 1, and the cost; a result with NaN is a failure."""
        if not images.isfinite().all():
            sys.exit("the training has diverged")
        pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
        seen, parameters = self.options.train, sum(parameter.numel() for parameter in model.parameters())
        np.savez_compressed(self.options.samples, images=pixels, images_trained=seen, parameters=parameters)


def job(description: str | None, **own: float) -> Job:
    """Read the command line and the subset.  `own`: further options of the trainer, with their defaults."""
    parser = argparse.ArgumentParser(description=description)
    for name, kind in {"subset": Path, "samples": Path, "state": Path, "seed": int, "images": int}.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    for name, default in own.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    with np.load(options.subset) as subset:
        images, labels, classes = subset["images"], torch.from_numpy(subset["labels"]), int(subset["label_count"])
    return Job(torch.from_numpy(images).float() / 127.5 - 1, labels if classes else None, classes, options)
