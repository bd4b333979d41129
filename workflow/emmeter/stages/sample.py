"""The sample stage generates images from every snapshot of a run, or from the theoretical optimum."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from emmeter.command import end, execution_options, head, positive, program, read_settings, stage_parser
from emmeter.data.subset import Subset
from emmeter.data.subset import load as load_subset
from emmeter.diffusion import operations
from emmeter.diffusion.optimum import OptimalDenoiser
from emmeter.diffusion.precision import choose
from emmeter.diffusion.preconditioning import Denoiser, to_unit
from emmeter.diffusion.sampling import Denoise, Draws, draws, generate, guided, noise_levels
from emmeter.errors import StageError
from emmeter.files import checksums
from emmeter.files.layout import record_settings
from emmeter.files.npz import write_npz
from emmeter.files.provenance import provenance
from emmeter.files.records import SamplingRecord
from emmeter.files.writing import write_json
from emmeter.machine.device import describe, fastest_convolutions, select
from emmeter.settings import keys
from emmeter.settings.sections import Setup
from emmeter.training import architecture, packages
from emmeter.training import snapshots as stored
from emmeter.training import state as training_state
from emmeter.training.functions import denoise_function
from emmeter.training.optimizer import FlatParameters
from emmeter.training.packages import Package, When
from emmeter.training.snapshots import Snapshot
from emmeter.training.trainer import build


@dataclass(frozen=True)
class Generated:
    """Images of all snapshots of a run, or of the optimum, which counts as one snapshot."""

    images: list[torch.Tensor]  # per snapshot uint8 (m, C, H, W)
    shares: list[float]  # share of the training budget of each snapshot, above 0, to 1
    images_seen: list[int]  # training images seen at each snapshot
    forward: int  # operations of the network for one image and call; 0 for the optimum
    package: str | None = None  # key of the compiled package


def sample(
    setup: Setup,
    subset: Path,
    snapshots: Path | None = None,
    *,
    n: int,
    replicate: int,
    output: Path,
    record: Path,
    key: str = "",
    state: Path | None = None,
    batch: int = 500,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int = 1,
    compiled: When = "auto",
) -> None:
    """Generate images from all snapshots of a run, or from the optimum of its subset, and write them.

    Args:
        setup: settings of the run, with all values that depend on the data.
        subset: path of subset.npz.
        snapshots: path of snapshots.safetensors; not needed by the optimum.
        n: number of training images, for the record.
        replicate: number of the run, from 0, which decides the seeds of the images.
        output: path of samples.npz.
        record: path of sampling.json, in the same folder.
        key: settings key for the record; by default computed from `setup`.
        state: folder of the training state, which is removed at the end: `snapshots` has served.
        batch: number of images generated at once.
        device: where to compute; "auto" takes a GPU if there is one.
        threads: CPU threads.
        compiled: whether to use a compiled package, as for `emmeter.training.packages.provided`.
    Raises:
        DataError: an input has changed since it was written, or the subset is missing or damaged.
        StageError: the snapshots are missing, damaged or of other settings, or the device is missing.
        OSError: a file cannot be written.
    """
    started = time.monotonic()
    images = load_subset(subset)
    chosen = select(device, threads)
    wanted = f"{setup.sampling.images} images per snapshot, {setup.sampling.steps} steps, batch {batch}"
    head("sample", n, replicate, wanted, f"device {describe(chosen)}", f"key {key or keys.key('sample', setup)}")
    labels = torch.from_numpy(np.unique(images.labels)) if images.label_count else None
    drawn = draws(setup.sampling.images, images.images.shape[1:], labels, replicate)
    if setup.diffusion.denoiser == "optimum":
        generated = from_optimum(setup, images, drawn, batch, chosen)
    elif snapshots is None:
        raise StageError("--snapshots: is needed, because diffusion.denoiser = 'network'")
    else:
        generated = from_snapshots(setup, images, snapshots, drawn, batch, chosen, compiled)
    settings = record_settings(output.parent, "sample", setup)
    write_npz(
        output,
        images=torch.stack(generated.images).numpy(),  # uint8 (snapshots, m, C, H, W)
        labels=np.zeros(0, np.int64) if drawn.labels is None else drawn.labels.numpy(),  # int64 (m,) or (0,)
        seeds=drawn.seeds.numpy(),
        shares=np.array(generated.shares),
        images_seen=np.array(generated.images_seen, np.int64),
    )
    evaluations = setup.evaluations * setup.sampling.images * len(generated.images)
    content: SamplingRecord = {
        "n": n,
        "replicate": replicate,
        "seeds": [int(drawn.seeds[0]), int(drawn.seeds[-1])],
        "inputs": checksums.of(subset, *([snapshots] if snapshots else [])),
        "evaluations": evaluations,
        "flops": generated.forward * evaluations,
        "package": generated.package,
        "device": describe(chosen),
        **provenance(key or keys.key("sample", setup), started),
    }
    write_json(record, content)
    checksums.record(output, record, settings)
    if state:
        training_state.discard(state)
    count = len(drawn.seeds) * len(generated.images)
    end(f"{count} images from {len(generated.images)} snapshots", time.monotonic() - started)


def from_optimum(setup: Setup, subset: Subset, drawn: Draws, batch: int, device: torch.device) -> Generated:
    """Generate images from the closed-form optimum of a subset."""
    labels = torch.from_numpy(subset.labels) if subset.label_count else None
    optimum = OptimalDenoiser(to_unit(torch.from_numpy(subset.images)), labels).to(device)
    images = generate(optimum, drawn, noise_levels(setup.sampling), batch, device)
    return Generated([images], [1.0], [0], 0)


def sampler(
    setup: Setup,
    shape: tuple[int, ...],
    label_count: int,
    batch: int,
    device: torch.device,
    compiled: When = "never",
    vectors: np.ndarray | None = None,
) -> tuple[Denoiser, Denoise, Package | None]:
    """Make the denoiser of a run for sampling, the function that computes it, and the package that this function uses.

    Weights that are loaded into the denoiser later count for the function, too.

    Args:
        shape: (C, H, W) of the images.
        label_count: number of classes; 0 for an unconditional network.
        batch: images generated at once.
        vectors: `Subset.label_vectors`.
    Raises:
        StageError: `compiled` is "always", and no package can be built.
    """
    denoiser = build(setup, shape, label_count, vectors).to(device).eval().requires_grad_(False)
    parameters = FlatParameters(denoiser.network, choose(setup.sampling.precision))
    recipe = packages.here(architecture.of_denoiser(setup, shape, batch), device)
    package = packages.provided(recipe, compiled)
    return denoiser, denoise_function(denoiser, parameters, package), package


def from_snapshots(
    setup: Setup, subset: Subset, path: Path, drawn: Draws, batch: int, device: torch.device, compiled: When = "never"
) -> Generated:
    """Generate images from every snapshot in a file.

    Raises:
        DataError: the file has changed since it was written.
        StageError: the file is damaged or belongs to other settings, or no package can be built under "always".
    """
    shape = subset.images.shape[1:]
    vectors = subset.label_vectors
    denoiser, denoise, package = sampler(setup, shape, subset.label_count, batch, device, compiled, vectors)
    levels = noise_levels(setup.sampling, denoiser.kind.sigma_min, denoiser.kind.sigma_max)
    denoise = guided(denoise, setup.guidance)
    batches = setup.evaluations * len(setup.training.snapshots) * max(1, len(drawn.latents) // batch)
    shares, images_seen, images = [], [], []
    with fastest_convolutions(batches):
        for snapshot in snapshots_of(setup, denoiser, path):
            shares.append(snapshot.share)
            images_seen.append(snapshot.images_seen)
            images.append(generate(denoise, drawn, levels, batch, device))
    forward = operations.forward(denoiser.network, shape)
    return Generated(images, shares, images_seen, forward, package.key if package else None)


def snapshots_of(setup: Setup, denoiser: Denoiser, path: Path) -> Iterator[Snapshot]:
    """Yield the snapshots of a run that are sampled, each once its weights are those of the denoiser.

    Raises:
        DataError: the file has changed since it was written.
        StageError: the file is damaged or belongs to other settings.
    """
    names, decays = denoiser.network.state_dict(), len(setup.training.ema_decays)
    for snapshot in stored.read(path, keys.key("train", setup), keys.ema_decay(setup), decays, names):
        try:
            denoiser.network.load_state_dict(snapshot.weights)
        except RuntimeError as error:
            raise StageError(f"{path}: its tensors are those of another network ({error}); delete it") from None
        yield snapshot


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__, "--subset", "--output", "--record")
    parser.add_argument("--snapshots", type=Path, nargs="?", help="weights of the run; not needed by the optimum")
    parser.add_argument("--state", type=Path, help="folder of the training state, which is removed at the end")
    parser.add_argument("--batch", type=positive, default=500, help="images generated at once")
    parser.add_argument("--compile", default="auto", choices=get_args(When))
    execution_options(parser)
    args = parser.parse_args(argv)
    sample(
        read_settings(args.settings),
        args.subset,
        args.snapshots,
        n=args.n,
        replicate=args.replicate,
        output=args.output,
        record=args.record,
        key=args.key,
        state=args.state,
        batch=args.batch,
        device=args.device,
        threads=args.threads,
        compiled=args.compile,
    )


if __name__ == "__main__":
    program(main)
