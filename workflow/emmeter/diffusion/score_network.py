"""What the score networks share: the embedding of noise level and label, and the form of a call.

Shapes: B images, C channels, H x W pixels, E0 values of the embedding, E of the condition.
"""

from abc import abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from emmeter.diffusion.layers import FourierEmbedding, LabelEmbedding, PositionalEmbedding, VectorEmbedding, linear


class ScoreNetwork(nn.Module):
    """F(x; noise, label): the raw network inside a preconditioned denoiser.

    A label's row is added to the embedding of the noise level, before the two layers that all blocks share.

    Args:
        embedded: E0, number of values of the embedding.
        condition: E, number of values that condition each block.
        fourier: whether random Fourier features embed the noise level, else fixed sines and cosines.
        label_count: number of classes; 0 for an unconditional network.
        vectors: (label_count, V), a row of numbers for each label; None: each label has a row that is trained.
    """

    stem: nn.Conv2d | nn.Linear  # the first layer, whose type of weights is the network's
    skip_flags: tuple[int, ...] = ()  # 1 for each skip connection that is used, in the order of the mask

    def __init__(self, embedded: int, condition: int, fourier: bool, label_count: int, vectors: Tensor | None = None):
        super().__init__()
        self.noise_embedding = (FourierEmbedding if fourier else PositionalEmbedding)(embedded)
        self.label_embedding = _label_embedding(label_count, vectors, embedded) if label_count else None
        self.mlp0 = linear(embedded, condition)
        self.mlp1 = linear(condition, condition)

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, C, H, W) images, (B,) noise coordinates, (B,) labels or None -> (B, C, H, W), in the weights' type."""
        return self.body(x, self.embed(noise, labels))

    def embed(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B,) noise coordinates, (B,) labels or None -> (B, E0), in the weights' type.

        Raises:
            ValueError: labels without classes, or classes without labels.
        """
        if (labels is None) != (self.label_embedding is None):
            raise ValueError("labels must be given to a class-conditional network, and to no other")
        embedding = self.noise_embedding(noise).to(self.stem.weight.dtype)
        if self.label_embedding is not None and labels is not None:
            embedding = embedding + self.label_embedding(labels)
        return embedding

    def condition(self, embedding: Tensor) -> Tensor:
        """Return what conditions each block, (B, E), from the embedding (B, E0)."""
        return F.silu(self.mlp1(F.silu(self.mlp0(embedding))))

    @abstractmethod
    def body(self, x: Tensor, embedding: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C, H, W) images and what `embed` returns -> (B, C, H, W), in the weights' type.

        `mask` (skips,) of 0 and 1 takes the place of `skip_flags`, as an input that may change.
        """


def _label_embedding(count: int, vectors: Tensor | None, channels: int) -> LabelEmbedding | VectorEmbedding:
    return LabelEmbedding(count, channels) if vectors is None else VectorEmbedding(vectors, channels)
