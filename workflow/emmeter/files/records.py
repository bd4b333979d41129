"""Records: the JSON file in each stage's folder that describes what made the folder.

One class per record, with every key.  `docs/outputs.md` lists the same keys for users.  A record is written with its
folder's checksums, so `read` returns what a stage wrote.  It does not check the keys again.
"""

from pathlib import Path
from typing import NotRequired, TypedDict, TypeVar, cast

from emmeter.files import checksums
from emmeter.measure.results import FinishedSearch, Snapshot
from emmeter.settings.keys import Stage


class Provenance(TypedDict):
    """Keys of every record."""

    key: str
    """Key of the folder: ten hexadecimal digits."""
    seconds: float
    """Duration of the stage in seconds.  For a resumed training, all its processes together."""
    peak_memory_mb: int
    """Largest resident memory of the process, in 10^6 bytes."""
    finished: str
    """End of the stage in UTC, such as 2026-11-26T03:22:10Z."""
    commit: str | None
    """Commit of the project, twelve digits; a + at the end marks uncommitted changes.  None without git."""
    versions: dict[str, str]
    """Versions of Python and of the packages that can change a result."""
    platform: str
    """Operating system."""
    hardware: str
    """Processor, and the number of cores that the process may use."""


class RunRecord(Provenance):
    """Keys of every record of one run."""

    n: int
    """Number of training images, N."""
    replicate: int
    """Number of the subset and training seed, from 0."""


class SubsetRecord(RunRecord):
    """``subset.json``: the drawing of a subset."""

    seed: int
    """`seed` of the configuration."""
    data_sha256: str
    """SHA-256 of the data set as used: pixels, labels and positions of all its images."""
    data_images: NotRequired[int]
    """Number of images of the data set as used.  Earlier versions left out this key and the next two."""
    data_title: NotRequired[str]
    """Title of the data set, or the name of the user's own file or folder; of a mixture, both joined by `` + ``."""
    data_licence: NotRequired[str | None]
    """Its licence; None if it is not known, as of the user's own images."""


class TrainingRecord(RunRecord):
    """``training.json``: the training of a run."""

    seed: int
    """Seed of this training, derived from the configuration's seed, the replicate and N."""
    inputs: dict[str, str]
    """SHA-256 of each input file, by its name."""
    images_trained: int
    """Training images seen, repetitions included."""
    flops: int
    """Floating-point operations of the network: three forward passes per image."""
    parameters: int
    """Number of parameters of the network."""
    processes: int
    """Number of processes that trained together (`training.gpus`)."""
    package: str | None
    """Key of the compiled package of the training step; null if it was computed by eager PyTorch."""
    device: str
    """Name of the GPU, or ``cpu`` with the number of threads."""
    images_per_second: float
    """Speed of the last process, in training images per second."""
    resumed_at_image: int
    """Training images seen when the last process resumed; 0 if it began the training."""


class SamplingRecord(RunRecord):
    """``sampling.json``: the generation of images from a run."""

    seeds: list[int]
    """Two seeds: of the first and of the last image."""
    inputs: dict[str, str]
    """SHA-256 of each input file, by its name."""
    evaluations: int
    """Evaluations of the denoiser, one per image and call."""
    flops: int
    """Floating-point operations of the network; 0 for the optimum."""
    package: str | None
    """Key of the compiled package of the denoiser; null if it was computed by eager PyTorch."""
    device: str
    """Name of the GPU, or ``cpu`` with the number of threads."""


class ExternalRecord(RunRecord):
    """``sampling.json`` of a command of the user's: training and sampling in one job."""

    seed: int
    """Seed that the command received, derived from the configuration's seed, the replicate and N; below 2^31."""
    inputs: dict[str, str]
    """SHA-256 of each input file, by its name."""
    command: str
    """The command with all placeholders filled in."""
    images_trained: int | None
    """Training images seen, repetitions included; this key and the next two are None if the command does not say."""
    flops: int | None
    """Floating-point operations of the model in training and sampling."""
    parameters: int | None
    """Number of parameters of the model."""
    attempts: int
    """Number of jobs that have worked on the run."""
    device: str
    """Device that the command was asked for: ``auto``, ``cpu`` or ``cuda``."""


class Cost(TypedDict):
    """Cost of a run: sums over training and sampling."""

    images_trained: int | None
    """Training images seen, repetitions included; None if a command of the user's does not say."""
    flops: int | None
    """Floating-point operations of the network; None if a command of the user's does not say."""
    seconds: float
    """Duration of the jobs in seconds."""


class ScoreRecord(RunRecord):
    """``score.json``: the copies among the generated images of a run."""

    inputs: dict[str, str]
    """SHA-256 of each input file, by its name."""
    image_shape: list[int]
    """Shape of an image: C, H, W."""
    threshold: float
    """Threshold of the criterion on d1/d2, above 0 and below 1."""
    engine: NotRequired[str]
    """Name of the engine that proposed the neighbours (`emmeter.measure.engines`).  Earlier versions left it out."""
    snapshots: list[Snapshot]
    """Counts of each snapshot, in the order of training."""
    held_out_distance: NotRequired[float | None]
    """Mean distance of the held-out images to the nearest training image, in grey levels, beside which `mean_distance`
    of a snapshot means something; None without held-out images.  Earlier versions left it out."""
    cost: Cost
    """Cost of training and sampling together."""


class EmmRecord(FinishedSearch, Provenance):
    """``emm.json``: the finished search of an arm."""

    keys: NotRequired[dict[Stage, str]]
    """Keys of the arm's runs by stage; `train` only for networks.  Earlier versions left them out."""


class MeasuredRecord(Provenance):
    """The record of what was measured of the runs of a finished search."""

    inputs: dict[str, str]
    """SHA-256 of each input file, by its name."""
    runs: int
    """Number of runs that were measured."""
    gone: int
    """Number of runs of which a file that is measured is no longer there."""


class QualityRecord(MeasuredRecord):
    """``quality.json``: the quality of the images of an arm's runs."""

    unlogged: int
    """Number of measured runs without training.csv, so that the held-out loss is no sign of the training's end."""


class DenoisingRecord(MeasuredRecord):
    """``denoising.json``: the errors of an arm's networks at single noise levels."""

    device: str
    """Device that computed the errors."""


R = TypeVar(
    "R", SubsetRecord, TrainingRecord, SamplingRecord, ExternalRecord, ScoreRecord, EmmRecord, MeasuredRecord,
    QualityRecord, DenoisingRecord,
)  # fmt: skip


def read(path: Path, kind: type[R]) -> R:
    """Read a record of a kind.

    Raises:
        DataError: the file has changed since it was written, or is not a JSON object.
        OSError: the file cannot be read.
    """
    return cast(R, checksums.read_json(path))
