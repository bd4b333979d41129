"""The baselines: training, sampling and scoring as usually written in PyTorch, without optimization for speed.

Eager float32, NCHW memory, one module per layer, attention by two matrix products and a softmax, a data loader,
`torch.optim.Adam`, a loop over the parameters for their average, `torch.cdist` for neighbours.  The mathematics is
the project's: tests/test_benchmarks.py checks that both give the same outputs and the same training steps.

Widths, levels and initial weights are those of a network from `emmeter.training.trainer.build`.  The computations are
written out here, so that a change of the project's network does not change the baseline.
"""

import copy
import itertools
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from emmeter.data.subset import Subset
from emmeter.diffusion import layers, unet
from emmeter.diffusion.preconditioning import Preconditioning, denoising_loss
from emmeter.diffusion.sampling import noise_levels
from emmeter.errors import StageError
from emmeter.settings.sections import Setup
from emmeter.training.schedule import budget, ema_decay, learning_rate_factor
from emmeter.training.trainer import build

RESIDUAL_SCALE = math.sqrt(0.5)
LOADER_PROCESSES = {"cpu": 0, "cuda": 4}
CDIST_BLOCK = 1000  # queries whose distances to all training images are in memory together


def convolution(source: nn.Conv2d) -> nn.Conv2d:
    """Make an ordinary convolution with the weights of `source`."""
    kernel, padding = source.kernel_size, source.padding
    assert isinstance(kernel, tuple) and isinstance(padding, tuple)
    layer = nn.Conv2d(source.in_channels, source.out_channels, (kernel[0], kernel[1]), padding=(padding[0], padding[1]))
    layer.load_state_dict(source.state_dict())
    return layer


def linear(source: nn.Linear) -> nn.Linear:
    """Make an ordinary linear layer with the weights of `source`."""
    layer = nn.Linear(source.in_features, source.out_features)
    layer.load_state_dict(source.state_dict())
    return layer


def normalization(source: nn.GroupNorm) -> nn.GroupNorm:
    """Make an ordinary group normalization with the weights of `source`."""
    layer = nn.GroupNorm(source.num_groups, source.num_channels, source.eps)
    layer.load_state_dict(source.state_dict())
    return layer


class Attention(nn.Module):
    """Self-attention over the pixels: softmax(q k^T / sqrt(C)) v."""

    def __init__(self, source: "layers.Attention | Attention"):
        super().__init__()
        self.norm, self.qkv, self.out = normalization(source.norm), convolution(source.qkv), convolution(source.out)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, c, h * w).unbind(1)
        weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(c), dim=2)  # (B, HW, HW)
        attended = (v @ weights.transpose(1, 2)).reshape(b, c, h, w)
        return (x + self.out(attended)) * RESIDUAL_SCALE


class Block(nn.Module):
    """Residual block of DDPM++; `direction` is "", "down" or "up"."""

    def __init__(self, source: layers.Block):
        super().__init__()
        self.norm0, self.conv0, self.shift = (
            normalization(source.norm0),
            convolution(source.conv0),
            linear(source.shift),
        )
        self.norm1, self.conv1 = normalization(source.norm1), convolution(source.conv1)
        self.dropout = nn.Dropout(source.dropout)
        self.project = None if source.project is None else convolution(source.project)
        self.attention = None if source.attention is None else Attention(source.attention)
        self.direction = "" if source.resample is None else source.resample.direction

    def resample(self, x: Tensor) -> Tensor:
        if self.direction == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.direction == "up" else x

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.resample(F.silu(self.norm0(x)))
        x = self.resample(x)
        h = self.conv0(h) + self.shift(embedding)[:, :, None, None]
        h = self.conv1(self.dropout(F.silu(self.norm1(h))))
        if self.project is not None:
            x = self.project(x)
        x = (x + h) * RESIDUAL_SCALE
        return x if self.attention is None else self.attention(x)


class UNet(nn.Module):
    """The DDPM++ network with all skip connections; its parameters have the names of `emmeter.diffusion.unet.UNet`."""

    def __init__(self, source: unet.UNet):
        super().__init__()
        self.noise_embedding, self.label_embedding = source.noise_embedding, source.label_embedding
        self.mlp0, self.mlp1 = linear(source.mlp0), linear(source.mlp1)
        assert isinstance(source.stem, nn.Conv2d)
        self.stem = convolution(source.stem)
        self.encoder, self.decoder = (
            nn.ModuleList(nn.ModuleList(Block(block) for block in level) for level in side)  # type: ignore[union-attr]
            for side in (source.encoder, source.decoder)
        )
        self.out_norm, self.out_conv = normalization(source.out_norm), convolution(source.out_conv)

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        embedding = self.noise_embedding(noise)
        if self.label_embedding is not None and labels is not None:
            embedding = embedding + self.label_embedding(labels)
        embedding = F.silu(self.mlp1(F.silu(self.mlp0(embedding))))
        x = self.stem(x)
        skips = [x]
        for level in self.encoder:
            for block in level:  # type: ignore[union-attr]
                x = block(x, embedding)
                skips.append(x)
        for level in self.decoder:
            for block in level:  # type: ignore[union-attr]
                if block.conv0.in_channels != x.shape[1]:
                    x = torch.cat([x, skips.pop()], dim=1)
                x = block(x, embedding)
        return self.out_conv(F.silu(self.out_norm(x)))


class Denoiser(nn.Module):
    """D(x; sigma, label) of a network that takes noise levels and labels itself, such as `UNet`."""

    def __init__(self, network: nn.Module, kind: Preconditioning):
        super().__init__()
        self.network: nn.Module = network
        self.kind = kind

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """Denoise (B, C, H, W) images of noise levels (B,), with labels (B,) or None: (B, C, H, W) float32."""
        x = x.to(torch.float32)
        c = self.kind.coefficients(sigma.to(torch.float32))
        skip, out, into = (value[:, None, None, None] for value in (c.skip, c.out, c.into))
        return skip * x + out * self.network(into * x, c.noise, labels).to(torch.float32)


def denoiser(setup: Setup, shape: tuple[int, ...], label_count: int) -> Denoiser:
    """Make the run's denoiser around a plain network, with the weights that `emmeter.training.trainer.build` draws.

    Raises:
        StageError: the run needs a feature that the baseline lacks.
    """
    network, training = setup.network, setup.training
    for name, value, supported in (
        ("network.architecture", network.architecture, "ddpmpp"),
        ("training.optimizer", training.optimizer, "adam"),
        ("training.flip", training.flip, 0.0),
        ("training.decoupled", training.decoupled and training.weight_decay > 0, False),
    ):
        if value != supported:
            raise StageError(f"{name} = {value!r}: the plain baseline knows only {supported!r}")
    if network.skips is not None and not all(network.skips):
        raise StageError(f"network.skips = {network.skips}: the plain baseline keeps all skip connections")
    fast = build(setup, shape, label_count)
    assert isinstance(fast.network, unet.UNet)  # `architecture` is checked above
    return Denoiser(UNet(fast.network), fast.kind)


def arithmetic() -> None:
    """Set torch's defaults on a GPU, which a program without optimization has: TF32 in convolutions only."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = True


class Images(Dataset[tuple[Tensor, int]]):
    """A subset that yields one image and its label at a time."""

    def __init__(self, subset: Subset):
        self.images, self.labels = torch.from_numpy(subset.images), subset.labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index].to(torch.float32) / 127.5 - 1, int(self.labels[index])


class Training:
    """The training of one run on the device; `advance` makes one step."""

    def __init__(self, setup: Setup, subset: Subset, device: torch.device):
        self.setup, self.device, self.step = setup, device, 0
        self.conditional = subset.label_count > 0
        self.budget = budget(setup, len(subset.images))
        self.denoiser = denoiser(setup, subset.images.shape[1:], subset.label_count).to(device).train()
        self.optimizer = torch.optim.Adam(
            self.denoiser.parameters(), lr=setup.training.learning_rate, weight_decay=setup.training.weight_decay
        )
        self.averages = [copy.deepcopy(self.denoiser.network) for _ in setup.training.ema_decays]
        self.batches = self._batches(subset)

    def _batches(self, subset: Subset) -> Iterator[list[Tensor]]:
        size = self.setup.training.batch_size
        images = Images(subset)
        shuffled = RandomSampler(images, num_samples=size * 2**40)  # one permutation after another
        yield from DataLoader(
            images, size, sampler=shuffled, num_workers=LOADER_PROCESSES[self.device.type],
            pin_memory=self.device.type == "cuda",
        )  # fmt: skip

    def advance(self) -> float:
        """Make one step on the next batch; return its mean loss."""
        images, labels = next(self.batches)
        kind = self.denoiser.kind
        draw = torch.rand(len(images)) if kind.draw == "uniform" else torch.randn(len(images))
        images = images.to(self.device)
        return self.update(images, labels.to(self.device), draw.to(self.device), torch.randn_like(images))

    def update(self, images: Tensor, labels: Tensor, draw: Tensor, noise: Tensor) -> float:
        """Make one step on given images in [-1, 1] (B, C, H, W), labels (B,), draws (B,) and noise (B, C, H, W)."""
        training, seen = self.setup.training, self.step * self.setup.training.batch_size
        for group in self.optimizer.param_groups:
            group["lr"] = training.learning_rate * learning_rate_factor(seen, self.budget.lr_ramp)
        self.optimizer.zero_grad()
        given = labels if self.conditional else None
        loss = denoising_loss(self.denoiser, self.denoiser.kind, images, draw, noise, given).mean()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for average, final in zip(self.averages, training.ema_decays, strict=True):
                common = training.batch_size if training.ema_warmup == "common" else None
                decay = ema_decay(seen, self.budget.ema_ramp, final, common)
                for mean, parameter in zip(average.parameters(), self.denoiser.network.parameters(), strict=True):
                    mean.copy_(parameter.lerp(mean, decay))
        self.step += 1
        return loss.item()


@torch.no_grad()
def sample(
    denoise: Denoiser,
    setup: Setup,
    shape: tuple[int, ...],
    labels_in_use: Tensor | None,
    batch: int,
    device: torch.device,
) -> Tensor:
    """Generate replicate 0 by the Heun sampler, each image from its own seed: (sampling.images, C, H, W) uint8."""
    levels = noise_levels(setup.sampling, denoise.kind.sigma_min, denoise.kind.sigma_max).to(device)
    images = []
    for start in range(0, setup.sampling.images, batch):
        latents, labels = [], []
        for seed in range(start, min(start + batch, setup.sampling.images)):
            generator = torch.Generator().manual_seed(seed)
            latents.append(torch.randn(shape, generator=generator, dtype=torch.float64))
            if labels_in_use is not None:
                labels.append(labels_in_use[torch.randint(len(labels_in_use), (), generator=generator)])
        given = torch.stack(labels).to(device) if labels else None
        x = torch.stack(latents).to(device) * levels[0]
        for now, following in itertools.pairwise(levels):
            slope = (x - denoise(x, now.expand(len(x)), given).to(torch.float64)) / now
            ahead = x + (following - now) * slope
            if following > 0:
                next_slope = (ahead - denoise(ahead, following.expand(len(x)), given).to(torch.float64)) / following
                ahead = x + (following - now) * (slope + next_slope) / 2
            x = ahead
        images.append((x * 127.5 + 128).clip(0, 255).to(torch.uint8).cpu())
    return torch.cat(images)


def nearest(generated: Tensor, train: Tensor, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Find the `k` nearest training images of each generated image in float32.

    Args:
        generated: (m, C, H, W) uint8.
        train: (N, C, H, W) uint8.
    Returns:
        Distances (m, k) float32 and indices (m, k) int64.
    """
    base = train.flatten(1).to(device, torch.float32)
    distances, indices = [], []
    for block in generated.split(CDIST_BLOCK):
        smallest = torch.cdist(block.flatten(1).to(device, torch.float32), base).topk(k, largest=False)
        distances.append(smallest.values.cpu())
        indices.append(smallest.indices.cpu())
    return torch.cat(distances), torch.cat(indices)
