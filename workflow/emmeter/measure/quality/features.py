"""Features of images: the spaces in which generated images are compared with real ones."""

import math

import numpy as np


def pixels(images: np.ndarray) -> np.ndarray:
    """Pixel values from 0 to 1, float64 (n, C * H * W), of uint8 images (n, C, H, W)."""
    return images.reshape(len(images), math.prod(images.shape[1:])) / 255
