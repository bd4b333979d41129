"""Layers of the U-Nets: convolutions, resampling, attention, residual blocks and embeddings."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RESIDUAL_SCALE = math.sqrt(0.5)  # keeps the variance of a sum of two unit-variance branches at one


def uniform(shape: tuple[int, ...], fan_in: int, fan_out: int, gain: float) -> nn.Parameter:
    """Draw Xavier-uniform weights: U(-a, a) with a = gain sqrt(6 / (fan_in + fan_out))."""
    bound = gain * math.sqrt(6 / (fan_in + fan_out))
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


SMALL_PRODUCT = 2_000_000  # multiplications from which a CPU's convolutions are faster than its matrix products


class Pointwise(nn.Conv2d):
    """1 x 1 convolution, computed as a matrix product over channels-last pixels if that is faster.

    A matrix product has less overhead.  On CPUs of other makers than Intel, however, its library uses only half of the
    vector width, so that large products are faster as convolutions.
    """

    def forward(self, input: Tensor) -> Tensor:  # (B, c_in, H, W) -> (B, c_out, H, W)
        products = input.shape[0] * input.shape[2] * input.shape[3] * self.weight.numel()
        if input.device.type == "cpu" and products > SMALL_PRODUCT:
            return super().forward(input)
        return F.linear(input.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def convolution(c_in: int, c_out: int, kernel: int = 3, gain: float = 1.0) -> nn.Conv2d:
    """Build a convolution that keeps the resolution, with Xavier weights times `gain` and zero bias."""
    layer = Pointwise(c_in, c_out, 1) if kernel == 1 else nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)
    layer.weight = uniform(tuple(layer.weight.shape), c_in * kernel**2, c_out * kernel**2, gain)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def linear(c_in: int, c_out: int) -> nn.Linear:
    """Build a linear layer with Xavier weights and zero bias."""
    layer = nn.Linear(c_in, c_out)
    layer.weight = uniform((c_out, c_in), c_in, c_out, 1.0)
    nn.init.zeros_(layer.bias)
    return layer


def normalization(channels: int) -> nn.GroupNorm:
    """Build a group normalization with at most 32 groups of at least 4 channels each."""
    limit = min(32, max(channels // 4, 1))
    groups = next(count for count in range(limit, 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


OUTPUT_GAIN = 1e-5  # the last layer of a residual branch starts near zero, so that the block starts as identity
ATTENTION_GAIN = math.sqrt(0.2)


class Resample(nn.Module):
    """Change of the resolution by a factor of two, with a separable filter that preserves the mean.

    Args:
        direction: "down" halves the resolution, "up" doubles it.
        taps: weights of the filter along one axis, before normalization.
    """

    kernel: Tensor

    def __init__(self, direction: str, taps: tuple[int, ...]):
        super().__init__()
        self.direction = direction
        self.box = taps == (1, 1)
        line = torch.tensor(taps, dtype=torch.float32) / sum(taps)
        self.register_buffer("kernel", torch.outer(line, line)[None, None], persistent=False)
        self.padding = (len(taps) - 1) // 2

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H/2, W/2) or (B, C, 2H, 2W)
        channels = x.shape[1]
        if self.direction == "down":
            if self.box:
                return F.avg_pool2d(x, 2)
            kernel = self.kernel.to(x.dtype).expand(channels, -1, -1, -1)
            return F.conv2d(x, kernel, stride=2, padding=self.padding, groups=channels)
        if self.box:
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        kernel = (
            (4 * self.kernel).to(x.dtype).expand(channels, -1, -1, -1)
        )  # an output pixel sees a quarter of the taps
        return F.conv_transpose2d(x, kernel, stride=2, padding=self.padding, groups=channels)


class Attention(nn.Module):
    """Single-head self-attention over the pixels, with its own residual connection."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = normalization(channels)
        self.qkv = convolution(channels, 3 * channels, kernel=1, gain=ATTENTION_GAIN)
        self.out = convolution(channels, channels, kernel=1, gain=OUTPUT_GAIN)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        # The operator expects (B, heads, tokens, C).  It attends over the third axis, so the transpose matters.
        q, k, v = (part.flatten(2).transpose(1, 2).unsqueeze(1) for part in self.qkv(self.norm(x)).chunk(3, dim=1))
        attended = F.scaled_dot_product_attention(q, k, v)  # softmax(q k^T / sqrt(C)) v
        attended = attended.squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:])  # a view, in channels-last order
        return (x + self.out(attended)) * RESIDUAL_SCALE


class Block(nn.Module):
    """Residual block conditioned on the noise embedding, with optional resampling and attention.

    Args:
        c_in, c_out: numbers of channels of input and output.
        embedding: width of the noise embedding, E.
        dropout: probability of dropout, 0 to 1.
        attention: whether self-attention ends the block.
        resample: change of the resolution in both branches, or None.
    """

    def __init__(
        self, c_in: int, c_out: int, embedding: int, dropout: float, attention: bool, resample: Resample | None = None
    ):
        super().__init__()
        self.dropout = dropout
        self.norm0 = normalization(c_in)
        self.conv0 = convolution(c_in, c_out)
        self.shift = linear(embedding, c_out)
        self.norm1 = normalization(c_out)
        self.conv1 = convolution(c_out, c_out, gain=OUTPUT_GAIN)
        self.resample = resample
        self.project = convolution(c_in, c_out, kernel=1) if c_in != c_out or resample is not None else None
        self.attention = Attention(c_out) if attention else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # (B, c_in, H, W), (B, E) -> (B, c_out, H', W')
        h = F.silu(self.norm0(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv0(h) + self.shift(embedding)[:, :, None, None]
        h = F.dropout(F.silu(self.norm1(h)), self.dropout, self.training)
        x = x if self.project is None else self.project(x)
        x = (x + self.conv1(h)) * RESIDUAL_SCALE
        return x if self.attention is None else self.attention(x)


class PyramidBranch(nn.Module):
    """Residual input of NCSN++'s encoder: convolve the running image pyramid and halve its resolution.

    Both filters are fused, as in the published networks.
    """

    def __init__(self, c_in: int, c_out: int, taps: tuple[int, ...]):
        super().__init__()
        self.conv = convolution(c_in, c_out)
        self.resample = Resample("down", taps)
        # One border, wide enough for both filters, is added before the first of them.
        self.conv.padding = (1 + self.resample.padding,) * 2
        self.resample.padding = 0

    def forward(self, pyramid: Tensor) -> Tensor:  # (B, c_in, H, W) -> (B, c_out, H/2, W/2)
        return self.resample(self.conv(pyramid))


class PositionalEmbedding(nn.Module):
    """Sines and cosines of the noise coordinate at frequencies from 1 down to 1/10000."""

    frequencies: Tensor

    def __init__(self, channels: int):
        super().__init__()
        exponent = torch.arange(channels // 2, dtype=torch.float32) / max(channels // 2 - 1, 1)
        self.register_buffer("frequencies", (1 / 10_000) ** exponent, persistent=False)

    def forward(self, noise: Tensor) -> Tensor:  # (B,) -> (B, channels)
        angle = torch.outer(noise, self.frequencies.to(noise.dtype))
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class FourierEmbedding(nn.Module):
    """Sines and cosines at fixed random frequencies, normal with standard deviation 16 cycles."""

    frequencies: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(channels // 2) * 16)  # part of the model, so saved with it

    def forward(self, noise: Tensor) -> Tensor:  # (B,) -> (B, channels)
        angle = torch.outer(noise, 2 * math.pi * self.frequencies.to(noise.dtype))
        return torch.cat([angle.sin(), angle.cos()], dim=1)


NO_LABEL = -1  # the label of an image whose label is left out


def label_rows(table: Tensor, labels: Tensor) -> Tensor:  # (labels, E), (B,) -> (B, E)
    """Return the row of each label, and zeros for `NO_LABEL`.  Other labels outside the table are an error."""
    missing = labels == NO_LABEL
    return F.embedding(labels + missing, table) * ~missing[:, None]


class LabelEmbedding(nn.Module):
    """One row per label, equal to a linear layer on one-hot vectors scaled by sqrt(labels).

    `NO_LABEL` stands for the vector of zeros, so that its row is the bias.  The bias is trained, and no parameter is
    added for it: runs with and without label dropout have the same initial weights.

    The look-up costs O(B) for any number of labels: 50,000 unique labels need megabytes only.
    """

    def __init__(self, labels: int, channels: int):
        super().__init__()
        self.scale = math.sqrt(labels)
        self.weight = uniform((labels, channels), labels, channels, 1.0)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, labels: Tensor) -> Tensor:  # (B,) integers below `labels`, or NO_LABEL -> (B, channels)
        return label_rows(self.weight, labels) * self.scale + self.bias


class VectorEmbedding(nn.Module):
    """A linear layer on a row of a table that is not trained, such as text embeddings; on zeros for `NO_LABEL`.

    Args:
        table: (labels, E), the row of each label.  Its mean square should be near 1, as that of scaled one-hot vectors.
        channels: number of values that the layer returns.
    """

    table: Tensor

    def __init__(self, table: Tensor, channels: int):
        super().__init__()
        values = table.shape[1]
        self.register_buffer("table", table, persistent=False)  # part of the subset, so not saved with the weights
        self.weight = uniform((channels, values), values, channels, 1.0)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, labels: Tensor) -> Tensor:  # (B,) integers below `labels`, or NO_LABEL -> (B, channels)
        return F.linear(label_rows(self.table, labels).to(self.weight.dtype), self.weight, self.bias)
