"""Check the networks against reference vectors: ``python tests/check_vectors.py FOLDER``.

Loads every .npz file of the folder that holds a network vector (keys ``meta``, ``param/*``, ``x``, ``sigma``,
``denoised`` and, where conditional, ``labels``) into our U-Net, evaluates it in float32, and compares.  Prints for each
file the relative l2 error of D(x; sigma) - c_skip x, the worst over its images.  The exit status is 1 if an error
exceeds 1e-4.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emmeter.diffusion.preconditioning import Denoiser, preconditioning
from emmeter.diffusion.unet import UNet
from emmeter.settings.sections import Diffusion, Network

TOLERANCE = 1e-4


def published_names(network: UNet, resolution: int) -> dict[str, str]:
    """Map the published name of every parameter, and of the Fourier frequencies, to ours."""
    names = {
        "map_noise.freqs": "noise_embedding.frequencies",
        "map_layer0": "mlp0",
        "map_layer1": "mlp1",
        "map_label": "label_embedding",
        f"enc.{resolution}x{resolution}_conv": "stem",
        f"dec.{resolution}x{resolution}_aux_norm": "out_norm",
        f"dec.{resolution}x{resolution}_aux_conv": "out_conv",
    }
    levels = len(network.encoder)
    for level in range(levels):
        side = f"{resolution >> level}x{resolution >> level}"
        first = 0
        if level > 0:
            names[f"enc.{side}_down"] = f"encoder.{level}.0"
            names[f"enc.{side}_aux_residual"] = f"pyramid.{level - 1}.conv"
            first = 1
        for index in range(network.blocks_per_level):
            names[f"enc.{side}_block{index}"] = f"encoder.{level}.{first + index}"
        stage = f"decoder.{levels - 1 - level}"
        inputs = ["in0", "in1"] if level == levels - 1 else ["up"]
        for index, name in enumerate([*inputs, *(f"block{i}" for i in range(network.blocks_per_level + 1))]):
            names[f"dec.{side}_{name}"] = f"{stage}.{index}"
    return names


WITHIN_BLOCK = {
    "affine": "shift",
    "skip": "project",
    "norm2": "attention.norm",
    "qkv": "attention.qkv",
    "proj": "attention.out",
}


def convert(published: dict[str, np.ndarray], network: UNet, resolution: int) -> dict[str, torch.Tensor]:
    """Convert published parameters (names without the leading ``model.``) to a state dict of our U-Net."""
    names = published_names(network, resolution)
    state = {}
    for name, value in published.items():
        if name.endswith("resample_filter"):
            continue  # a constant of the architecture
        tensor = torch.from_numpy(value)
        prefix = next(p for p in sorted(names, key=len, reverse=True) if name == p or name.startswith(p + "."))
        rest = name[len(prefix) :]
        for theirs, ours in WITHIN_BLOCK.items():
            rest = re.sub(rf"^\.{theirs}\.", f".{ours}.", rest)
        if ".qkv." in rest:  # published: channel-major triples; ours: all q, then all k, then all v
            tensor = tensor.unflatten(0, (-1, 3)).transpose(0, 1).flatten(0, 1)
        if prefix == "map_label" and rest == ".weight":
            tensor = tensor.T
        state[names[prefix] + rest] = tensor.contiguous()
    return state


def load(path: Path) -> tuple[Denoiser, dict[str, Any], dict[str, torch.Tensor]]:
    """Load a vector file: the denoiser with the published weights, its description, and its tensors."""
    with np.load(path, allow_pickle=False) as archive:
        meta = json.loads(str(archive["meta"]))
        published = {k.removeprefix("param/model."): archive[k] for k in archive.files if k.startswith("param/")}
        tensors = {k: torch.from_numpy(archive[k]) for k in ("x", "sigma", "labels", "denoised") if k in archive.files}
    sides = {int(match[1]) for name in published if (match := re.match(r"enc\.(\d+)x", name))}
    first = {
        side: next(v for k, v in published.items() if k == f"enc.{side}x{side}_block0.conv1.weight") for side in sides
    }
    attention = meta.get("attention_resolutions", meta.get("attention_resolution"))
    settings = Network(
        architecture=meta["arch"],
        channels=meta["channels"],
        multipliers=[first[side].shape[0] // meta["channels"] for side in sorted(sides, reverse=True)],
        blocks=meta["blocks_per_level"],
        attention=attention if isinstance(attention, list) else [attention],
        embedding=meta["embedding"],
        skips=meta["skip_connections"],
        dropout=0.0,
    )
    network = UNet(settings, meta["resolution"], meta["in_channels"], meta["label_dim"])
    network.load_state_dict(convert(published, network, meta["resolution"]))
    parameters = sum(p.numel() for p in network.parameters())
    if parameters != meta["parameters"]:
        raise ValueError(f"{path}: {parameters} parameters instead of {meta['parameters']}")
    kind = preconditioning(Diffusion(preconditioning=meta["precond"]))
    return Denoiser(network, kind).eval(), meta, tensors


@torch.no_grad()
def error(path: Path) -> float:
    """Worst relative l2 error of the network's part of D(x; sigma) over the images of one file."""
    denoiser, _, tensors = load(path)
    labels = tensors.get("labels")
    if labels is not None and labels.dim() > 1:  # one-hot
        labels = labels.argmax(dim=1)
    x, sigma = tensors["x"], tensors["sigma"]
    ours = denoiser(x, sigma, None if labels is None else labels.long()).double()
    base = denoiser.kind.coefficients(sigma.double()).skip[:, None, None, None] * x.double()
    expected = tensors["denoised"].double()
    difference = (ours - expected).flatten(1).norm(dim=1)
    return float((difference / (expected - base).flatten(1).norm(dim=1)).max())


def is_network_vector(path: Path) -> bool:
    with np.load(path, allow_pickle=False) as archive:
        return {"meta", "x", "sigma", "denoised"} <= set(archive.files)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(argv).folder
    if not folder.is_dir():
        print(f"error: {folder}: must be a folder with .npz vectors", file=sys.stderr)
        return 1
    paths = [path for path in sorted(folder.glob("*.npz")) if is_network_vector(path)]
    if not paths:
        print(f"error: {folder}: holds no network vectors", file=sys.stderr)
        return 1
    errors = {path: error(path) for path in paths}
    for path, value in errors.items():
        print(f"{value:.2e}  {'ok ' if value <= TOLERANCE else 'BAD'}  {path.name}")
    return int(not all(value <= TOLERANCE for value in errors.values()))


if __name__ == "__main__":
    sys.exit(main())
