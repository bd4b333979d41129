"""The networks that a denoiser can hold, by the name of their architecture."""

from torch import Tensor

from emmeter.diffusion.score_network import ScoreNetwork
from emmeter.diffusion.transformer import Transformer
from emmeter.diffusion.unet import UNet
from emmeter.settings.sections import Network


def build_network(
    settings: Network, resolution: int, image_channels: int, label_count: int = 0, vectors: Tensor | None = None
) -> ScoreNetwork:
    """Build the network that the settings describe, with initial weights.

    Args:
        resolution: H = W of the images.
        image_channels: C of the images.
        label_count: number of classes; 0 for an unconditional network.
        vectors: (label_count, V), a row of numbers for each label; None: each label has a row that is trained.
    """
    kind = Transformer if settings.architecture == "dit" else UNet
    return kind(settings, resolution, image_channels, label_count, vectors)
