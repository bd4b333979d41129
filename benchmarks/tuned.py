"""The tuned baseline: training and sampling as a skilled user of PyTorch writes them, without this project.

The network is plain's (`benchmarks.plain`), channels last, with `F.scaled_dot_product_attention`.  The training set is
one tensor on the device, from which each batch is indexed.  Adam is fused, and the averages of the weights take one
call.  On a GPU the network is compiled and computes in bfloat16 by autocast, and no step waits for its loss.

The mathematics is plain's: tests/test_benchmarks.py checks that both give the same training steps and the same images.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import plain
from emmeter.data.subset import Subset
from emmeter.diffusion.preconditioning import denoising_loss
from emmeter.settings.sections import Setup
from emmeter.training.schedule import budget, ema_decay, learning_rate_factor

# Modes of torch.compile.  "reduce-overhead" captures CUDA graphs, which pay where launches take longer than kernels.
Mode = Literal["default", "reduce-overhead", "max-autotune"]


class Attention(plain.Attention):
    """Self-attention over the pixels by the fused operator."""

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).permute(0, 2, 3, 1).reshape(b, 1, h * w, 3 * c)  # a view of channels-last memory
        attended = F.scaled_dot_product_attention(*qkv.chunk(3, dim=3))
        attended = attended.reshape(b, h, w, c).permute(0, 3, 1, 2)
        return (x + self.out(attended)) * plain.RESIDUAL_SCALE


def denoiser(
    setup: Setup, shape: tuple[int, ...], label_count: int, device: torch.device, mode: Mode = "default"
) -> plain.Denoiser:
    """Make plain's denoiser, tuned, on the device; on a GPU its network is compiled in the given mode.

    Raises:
        StageError: the run needs a feature that the baseline lacks.
    """
    made = plain.denoiser(setup, shape, label_count)
    for block in list(made.network.modules()):
        if isinstance(block, plain.Block) and block.attention is not None:
            block.attention = Attention(block.attention)
    made = made.to(device).to(memory_format=torch.channels_last)
    if device.type == "cuda":
        network = torch.compile(made.network, mode=mode, dynamic=False)
        return plain.Denoiser(network, made.kind)  # type: ignore[arg-type]  # torch.compile returns a module
    return made


def arithmetic() -> None:
    """Let a GPU multiply float32 in TF32 wherever autocast does not choose bfloat16."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True


def autocast(device: torch.device) -> torch.autocast:
    """Bfloat16 on a GPU.  On a CPU it makes small networks slower."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


class Training:
    """The training of one run on the device; `advance` makes one step."""

    def __init__(self, setup: Setup, subset: Subset, device: torch.device, mode: Mode = "default"):
        self.setup, self.device, self.step = setup, device, 0
        self.budget = budget(setup, len(subset.images))
        self.denoiser = denoiser(setup, subset.images.shape[1:], subset.label_count, device, mode).train()
        self.parameters: list[Tensor] = list(self.denoiser.parameters())
        self.optimizer = torch.optim.Adam(
            self.parameters, lr=setup.training.learning_rate, weight_decay=setup.training.weight_decay, fused=True
        )
        self.averages = [
            [parameter.detach().clone() for parameter in self.parameters] for _ in setup.training.ema_decays
        ]
        images = torch.from_numpy(subset.images).to(device, torch.float32) / 127.5 - 1
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.from_numpy(subset.labels).to(device) if subset.label_count else None
        self.order = torch.empty(0, dtype=torch.int64, device=device)  # the images that come next

    def _indices(self) -> Tensor:
        """The indices of the next batch: one permutation after another."""
        size = self.setup.training.batch_size
        while len(self.order) < size:
            self.order = torch.cat([self.order, torch.randperm(len(self.images), device=self.device)])
        indices, self.order = self.order[:size], self.order[size:]
        return indices

    def advance(self) -> Tensor:
        """Make one step on the next batch; return its mean loss, on the device."""
        indices = self._indices()
        distribution = torch.rand if self.denoiser.kind.draw == "uniform" else torch.randn
        images, draw = self.images[indices], distribution(len(indices), device=self.device)
        return self.update(
            images, None if self.labels is None else self.labels[indices], draw, torch.randn_like(images)
        )

    def update(self, images: Tensor, labels: Tensor | None, draw: Tensor, noise: Tensor) -> Tensor:
        """Make one step on given images in [-1, 1] (B, C, H, W), labels (B,), draws (B,) and noise (B, C, H, W)."""
        training, seen = self.setup.training, self.step * self.setup.training.batch_size
        self.optimizer.param_groups[0]["lr"] = training.learning_rate * learning_rate_factor(seen, self.budget.lr_ramp)
        self.optimizer.zero_grad()
        with autocast(self.device):
            loss = denoising_loss(self.denoiser, self.denoiser.kind, images, draw, noise, labels).mean()
        loss.backward()
        self.optimizer.step()
        common = training.batch_size if training.ema_warmup == "common" else None
        with torch.no_grad():
            for average, final in zip(self.averages, training.ema_decays, strict=True):
                decay = ema_decay(seen, self.budget.ema_ramp, final, common)
                torch._foreach_lerp_(average, self.parameters, 1 - decay)  # type: ignore[attr-defined]
        self.step += 1
        return loss.detach()
