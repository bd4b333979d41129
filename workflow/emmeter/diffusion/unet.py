"""The score networks of the paper: DDPM++ and NCSN++ U-Nets.

The architecture is that of Song et al., "Score-Based Generative Modeling through SDEs" (ICLR 2021).  Arrangement and
initialization of the layers are those of Karras et al., "Elucidating the Design Space of Diffusion-Based Generative
Models" (NeurIPS 2022, appendix F.3).  Shapes: B images, C channels, H x W pixels, width E of the embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emmeter.diffusion.layers import (
    OUTPUT_GAIN,
    RESIDUAL_SCALE,
    Block,
    PyramidBranch,
    Resample,
    convolution,
    normalization,
)
from emmeter.diffusion.score_network import ScoreNetwork
from emmeter.settings.sections import Network


class UNet(ScoreNetwork):
    """F(x; noise, label): the raw network inside a preconditioned denoiser.

    Args:
        settings: widths, depths, attention, embedding and skip mask.
        resolution: H = W of the images, divisible by 2^(levels - 1).
        image_channels: C of the images.
        label_count, vectors: as in `ScoreNetwork`.

    A skip connection whose flag is 0 carries zeros of the same shape, as in the paper (figure 4), so that the
    number of parameters does not change.
    """

    def __init__(
        self,
        settings: Network,
        resolution: int,
        image_channels: int,
        label_count: int = 0,
        vectors: Tensor | None = None,
    ):
        ncsnpp = settings.architecture == "ncsnpp"
        noise_channels = settings.channels * (2 if ncsnpp else 1)
        embedding = 4 * settings.channels
        fourier = (settings.embedding or ("fourier" if ncsnpp else "positional")) == "fourier"
        super().__init__(noise_channels, embedding, fourier, label_count, vectors)
        taps = (1, 3, 3, 1) if ncsnpp else (1, 1)
        levels = len(settings.multipliers)
        widths = [settings.channels * multiplier for multiplier in settings.multipliers]
        assert settings.attention is not None  # resolved when the data were read
        attends = [resolution >> level in settings.attention for level in range(levels)]
        self.skip_flags = tuple(settings.skips or [1] * (levels * (settings.blocks + 1)))

        def block(c_in: int, c_out: int, attention: bool, resample: str | None = None) -> Block:
            return Block(
                c_in, c_out, embedding, settings.dropout, attention, Resample(resample, taps) if resample else None
            )

        self.stem = convolution(image_channels, settings.channels)
        self.encoder = nn.ModuleList()  # one list of blocks per level
        self.pyramid = nn.ModuleList()  # NCSN++ only: one branch per level below the first
        width, pyramid_width, skips = settings.channels, image_channels, [settings.channels]
        for level in range(levels):
            blocks = nn.ModuleList()
            if level > 0:
                blocks.append(block(width, width, False, "down"))
                skips.append(width)
                if ncsnpp:
                    self.pyramid.append(PyramidBranch(pyramid_width, width, taps))
                    pyramid_width = width
            for _ in range(settings.blocks):
                blocks.append(block(width, widths[level], attends[level]))
                width = widths[level]
                skips.append(width)
            self.encoder.append(blocks)

        self.decoder = nn.ModuleList()  # from the lowest resolution up
        for level in reversed(range(levels)):
            blocks = nn.ModuleList()
            if level == levels - 1:
                blocks.extend([block(width, width, True), block(width, width, False)])
            else:
                blocks.append(block(width, width, False, "up"))
            for index in range(settings.blocks + 1):
                last = index == settings.blocks  # only the last block of a level attends in the decoder
                blocks.append(block(width + skips.pop(), widths[level], last and attends[level]))
                width = widths[level]
            self.decoder.append(blocks)
        self.blocks_per_level = settings.blocks
        self.out_norm = normalization(width)
        self.out_conv = convolution(width, image_channels, gain=OUTPUT_GAIN)

    def body(self, x: Tensor, embedding: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x.to(self.stem.weight.dtype)
        embedding = self.condition(embedding)

        skips = self._encode(x, embedding)
        x = skips[-1]
        if mask is None:
            kept = [s if flag else torch.zeros_like(s) for s, flag in zip(skips, self.skip_flags, strict=True)]
        else:
            kept = [s * flag for s, flag in zip(skips, mask.unbind(), strict=True)]
        for blocks in self.decoder:
            first_skip = len(blocks) - self.blocks_per_level - 1  # type: ignore[arg-type]
            for index, layer in enumerate(blocks):  # type: ignore[arg-type]
                x = layer(torch.cat([x, kept.pop()], dim=1) if index >= first_skip else x, embedding)
        return self.out_conv(F.silu(self.out_norm(x)))

    def _encode(self, x: Tensor, embedding: Tensor) -> list[Tensor]:
        """All encoder activations, in the order of the skip mask."""
        pyramid = x
        skips = [self.stem(x)]
        for level, blocks in enumerate(self.encoder):
            for index, layer in enumerate(blocks):  # type: ignore[arg-type]
                h = layer(skips[-1], embedding)
                if self.pyramid and level > 0 and index == 0:
                    # The sum goes on to the next level of the pyramid (residual input, NCSN++).
                    h = pyramid = (h + self.pyramid[level - 1](pyramid)) * RESIDUAL_SCALE
                skips.append(h)
        return skips
