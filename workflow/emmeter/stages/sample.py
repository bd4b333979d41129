"""The sample stage: ``python -m emmeter.stages.sample`` generates images from every snapshot of a run, or from the
optimum."""

import itertools
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from emmeter.command import arguments, execution_options, positive, program, read_settings
from emmeter.data.subset import Subset
from emmeter.data.subset import load as load_subset
from emmeter.diffusion import operations
from emmeter.diffusion.optimum import OptimalDenoiser
from emmeter.diffusion.precision import cast, choose
from emmeter.diffusion.preconditioning import to_unit
from emmeter.diffusion.sampling import Draws, draws, generate, noise_levels
from emmeter.errors import StageError
from emmeter.files import checksums
from emmeter.files.layout import record_settings
from emmeter.files.npz import write_npz
from emmeter.files.provenance import provenance
from emmeter.files.writing import write_json
from emmeter.machine.device import describe, select
from emmeter.settings.keys import ema_decay, key
from emmeter.settings.sections import Setup
from emmeter.training import state
from emmeter.training.snapshots import tensor_name
from emmeter.training.trainer import build


def main() -> None:
    parser = arguments(__doc__, "--subset", "--output", "--record")
    parser.add_argument("--snapshots", type=Path, nargs="?", help="weights of the run; not needed by the optimum")
    parser.add_argument("--state", type=Path, help="folder of the training state, which is not needed any more")
    parser.add_argument("--batch", type=positive, default=500, help="images generated at once")
    execution_options(parser)
    args = parser.parse_args()
    started = time.monotonic()
    setup = read_settings(args.settings)
    subset = load_subset(args.subset)
    device = select(args.device, args.threads)
    labels = torch.from_numpy(np.unique(subset.labels)) if subset.label_count else None
    drawn = draws(setup.sampling.images, subset.images.shape[1:], labels, args.replicate)
    if setup.diffusion.denoiser == "optimum":
        optimum = OptimalDenoiser(
            to_unit(torch.from_numpy(subset.images)), None if labels is None else torch.from_numpy(subset.labels)
        ).to(device)
        images = [generate(optimum, drawn, noise_levels(setup.sampling), args.batch, device)]
        shares, seen, forward = [1.0], [0], 0
    elif args.snapshots is None:
        raise StageError("--snapshots: is needed, because diffusion.denoiser = 'network'")
    else:
        images, shares, seen, forward = from_snapshots(setup, subset, args.snapshots, drawn, args.batch, device)
    settings = record_settings(args.output.parent, args.settings)
    write_npz(
        args.output,
        images=torch.stack(images).numpy(),  # uint8 (snapshots, m, C, H, W)
        labels=np.zeros(0, np.int64) if drawn.labels is None else drawn.labels.numpy(),  # int64 (m,); empty: none
        seeds=drawn.seeds.numpy(),
        shares=np.array(shares),  # of the training budget, one a snapshot
        images_seen=np.array(seen, np.int64),
    )
    evaluations = (2 * setup.sampling.steps - 1) * setup.sampling.images * len(images)
    record = {
        "n": args.n,
        "replicate": args.replicate,
        "seeds": [int(drawn.seeds[0]), int(drawn.seeds[-1])],  # of the first and the last image
        "inputs": checksums.of(args.subset, *([args.snapshots] if args.snapshots else [])),
        "evaluations": evaluations,
        "flops": forward * evaluations,
        "device": describe(device),
    }
    write_json(args.record, record | provenance(args.key, started))
    checksums.record(args.output, args.record, settings)
    if args.state:
        state.discard(args.state)


def from_snapshots(
    setup: Setup, subset: Subset, path: Path, drawn: Draws, batch: int, device: torch.device
) -> tuple[list[torch.Tensor], list[float], list[int], int]:
    """Images of every snapshot in a file, with its share of the budget and its images seen; operations of one image.

    Raises:
        DataError: the file has changed since it was written.
        StageError: the file is damaged or belongs to other settings.
    """
    checksums.check([path])
    denoiser = build(setup, subset.images.shape[1:], subset.label_count).to(device).eval().requires_grad_(False)
    cast(denoiser.network, choose(setup.sampling.precision))
    levels = noise_levels(setup.sampling, denoiser.kind.sigma_min, denoiser.kind.sigma_max)
    try:
        with safe_open(path, "pt") as file:
            description = json.loads(file.metadata()["run"])
            if description["key"] not in ("", key("train", setup)):
                raise ValueError("its settings are others")
            decay = description["ema_decays"].index(ema_decay(setup))
            shares, seen = description["shares"], description["images_seen"]
            images = []
            names = denoiser.network.state_dict()
            places = itertools.product(range(len(shares)), range(len(setup.training.ema_decays)), names)
            if set(file.keys()) != {tensor_name(*place) for place in places}:
                raise ValueError("its tensors are those of another network")
            for index in range(len(shares)):
                denoiser.network.load_state_dict({n: file.get_tensor(tensor_name(index, decay, n)) for n in names})
                images.append(generate(denoiser, drawn, levels, batch, device))
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise StageError(f"{path}: is not a complete file of snapshots of this run ({error}); delete it") from None
    return images, shares, seen, operations.forward(denoiser.network, subset.images.shape[1:])


if __name__ == "__main__":
    program(main)
