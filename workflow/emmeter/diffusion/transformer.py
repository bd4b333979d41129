"""A diffusion transformer (Peebles and Xie 2023, "Scalable Diffusion Models with Transformers", adaLN-Zero blocks).

Shapes: B images, C channels, H x W pixels, T patches, width D.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emmeter.diffusion.layers import PositionalEmbedding, linear
from emmeter.diffusion.score_network import ScoreNetwork
from emmeter.settings.sections import Network

MLP_RATIO = 4  # hidden units of a block's perceptron, per unit of width
NORM_EPS = 1e-6


class Transformer(ScoreNetwork):
    """F(x; noise, label): the raw network inside a preconditioned denoiser.

    Positions of patches are fixed sines and cosines, as in the publication.  It has no skip connections.

    Args:
        settings: width (`channels`), `blocks`, `heads`, `patch`, `embedding` and `dropout`.
        resolution: H = W of the images, divisible by `patch`.
        image_channels: C of the images.
        label_count, vectors: as in `ScoreNetwork`.
    """

    positions: Tensor

    def __init__(
        self,
        settings: Network,
        resolution: int,
        image_channels: int,
        label_count: int = 0,
        vectors: Tensor | None = None,
    ):
        width, values = settings.channels, image_channels * settings.patch**2
        super().__init__(width, width, settings.embedding == "fourier", label_count, vectors)
        self.patch = settings.patch
        self.stem = linear(values, width)
        self.register_buffer("positions", grid_positions(resolution // settings.patch, width), persistent=False)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, settings.heads, settings.dropout) for _ in range(settings.blocks)
        )
        self.out_modulation = zero_linear(width, 2 * width)
        self.out = zero_linear(width, values)

    def body(self, x: Tensor, embedding: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x.to(self.stem.weight.dtype)
        condition = self.condition(embedding)
        tokens = self.stem(patches(x, self.patch)) + self.positions.to(x.dtype)
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = self.out_modulation(condition).chunk(2, dim=1)
        return pixels(self.out(modulated(tokens, shift, scale)), self.patch, x.shape[1])


class TransformerBlock(nn.Module):
    """Self-attention and a perceptron, whose normalizations and gates depend on the condition (adaLN-Zero).

    Gates start at zero, so that the block starts as identity.

    Args:
        width: D, a multiple of `heads`.
        heads: number of attention heads.
        dropout: probability that an output of a branch is dropped, 0 to 1.
    """

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.modulation = zero_linear(width, 6 * width)
        self.qkv = linear(width, 3 * width)
        self.project = linear(width, width)
        self.widen = linear(width, MLP_RATIO * width)
        self.narrow = linear(MLP_RATIO * width, width)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:  # (B, T, D), (B, D) -> (B, T, D)
        shift0, scale0, gate0, shift1, scale1, gate1 = self.modulation(condition).chunk(6, dim=1)
        attended = self._attend(modulated(tokens, shift0, scale0))
        tokens = tokens + gate0[:, None] * F.dropout(attended, self.dropout, self.training)
        hidden = F.gelu(self.widen(modulated(tokens, shift1, scale1)), approximate="tanh")
        return tokens + gate1[:, None] * F.dropout(self.narrow(hidden), self.dropout, self.training)

    def _attend(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()  # (B, heads, T, d)
        return self.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def zero_linear(c_in: int, c_out: int) -> nn.Linear:
    """Build a linear layer whose weights and bias are zero."""
    layer = nn.Linear(c_in, c_out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalize each token (B, T, D) to mean 0 and variance 1, then scale by 1 + `scale` and add `shift`, (B, D)."""
    return F.layer_norm(tokens, tokens.shape[-1:], eps=NORM_EPS) * (1 + scale[:, None]) + shift[:, None]


def patches(x: Tensor, patch: int) -> Tensor:
    """Cut images (B, C, H, W) into patches, row by row: (B, T, C patch^2)."""
    b, c, h, w = x.shape
    cut = x.reshape(b, c, h // patch, patch, w // patch, patch)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * patch**2)


def pixels(tokens: Tensor, patch: int, channels: int) -> Tensor:
    """Join patches (B, T, C patch^2) of square images to images (B, C, H, W); the inverse of `patches`."""
    b, t, _ = tokens.shape
    side = round(t**0.5)
    cut = tokens.reshape(b, side, side, channels, patch, patch)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(b, channels, side * patch, side * patch)


def grid_positions(side: int, width: int) -> Tensor:
    """Positions of side x side patches as sines and cosines: (T, width), half for the row, half for the column.

    Args:
        width: a multiple of 4.
    """
    axis = PositionalEmbedding(width // 2)(torch.arange(side, dtype=torch.float32))
    rows, columns = axis[:, None].expand(-1, side, -1), axis[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)
