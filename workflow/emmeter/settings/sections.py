"""The sections of the settings, and `Setup`: everything that decides the outcome of an arm."""

import difflib
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from emmeter.settings.types import (
    Bool,
    Decay,
    DurationText,
    Flag,
    Float,
    Int,
    PositiveFloat,
    PositiveInt,
    Precision,
    Section,
    Share,
    SpanText,
    Text,
    as_number,
)

DATASETS = ("digits", "cifar10", "cifar100", "svhn", "fashion_mnist", "mnist")


def _source(value: str) -> str:
    if value in DATASETS or re.fullmatch(r"(npz|folder):[^\0\n]+", value):
        return value
    near = difflib.get_close_matches(value, DATASETS, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"must be one of {', '.join(DATASETS)}, npz:PATH or folder:PATH{hint}")


def _optional_source(value: str | None) -> str | None:
    return None if value is None else _source(value)


def _labels_text(value: object) -> object:
    return "true" if value is True else value  # YAML reads a bare `true` as a boolean


def _labels(value: str) -> str:
    if value in ("none", "true", "unique") or re.fullmatch(r"random-[1-9]\d*", value):
        return value
    near = difflib.get_close_matches(value, ("none", "true", "unique", "random-10"), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"must be none, true, unique or random-K with K >= 1 (such as random-10){hint}")


def _no_fit(value: object) -> object:
    return None if value == "none" else value


class Data(Section):
    """Which images a run is trained on."""

    source: Annotated[Text, AfterValidator(_source)] = "cifar10"
    root: Text = "data"  # where torchvision's data sets lie
    download: Bool = False  # whether torchvision may fetch a missing data set
    resolution: PositiveInt | None = None  # downscale to this side (pixels); none: as stored
    # How images that are not square become so, before they are downscaled; none: they are refused.
    fit: Annotated[Literal["crop", "pad"] | None, BeforeValidator(_no_fit)] = None
    classes: list[Annotated[Int, Field(ge=0)]] | None = None  # keep only these classes; none: all
    balanced: Bool = True  # as many images of every class
    draw: Literal["random", "first"] = "random"  # per replicate, or the paper's first n of each class
    labels: Annotated[str, BeforeValidator(_labels_text), AfterValidator(_labels)] = "none"
    held_out: Annotated[Int, Field(ge=0)] = 256  # images outside the subset for the held-out loss
    mixture: Annotated[Text | None, AfterValidator(_optional_source)] = None  # a second source of images of one shape
    mixture_classes: list[Annotated[Int, Field(ge=0)]] | None = None  # of the second source; none: all
    mixture_share: Annotated[Float, Field(ge=0, le=1)] = 0.0  # of the subset from the second source (alpha)

    @property
    def sources(self) -> list[str]:
        """The sources that images come from: one, or two of a mixture."""
        return [self.source, *([self.mixture] if self.mixture and self.mixture_share else [])]


class Network(Section):
    """The U-Net (Song et al. 2021, in the form of Karras et al. 2022)."""

    architecture: Literal["ddpmpp", "ncsnpp"] = "ddpmpp"
    channels: Annotated[Int, Field(ge=4, le=4096, multiple_of=2)] = 128  # width before multipliers
    multipliers: Annotated[list[PositiveInt], Field(min_length=1, max_length=8)] = [2, 2, 2]  # width of each level
    blocks: Annotated[Int, Field(ge=1, le=64)] = 2  # residual blocks a level in the encoder; one more in the decoder
    attention: list[PositiveInt] | None = [16]  # resolutions with self-attention; none: half that of the images
    embedding: Literal["positional", "fourier"] | None = None  # of the noise level; none: the architecture's own
    skips: list[Flag] | None = None  # 1 keeps, 0 cuts a skip connection, in encoder order; none: keep all
    dropout: Annotated[Float, Field(ge=0, lt=1)] = 0.13


def skip_count(network: Network) -> int:
    """Number of skip connections: the stem's or the downsampling's, and one a block, at each level."""
    return len(network.multipliers) * (network.blocks + 1)


class Diffusion(Section):
    """The denoiser, its preconditioning and its noise levels in training."""

    denoiser: Literal["network", "optimum"] = "network"  # optimum: the closed-form minimum of the training loss
    preconditioning: Literal["vp", "ve", "edm"] = "vp"
    sigma_data: PositiveFloat | None = 0.5  # EDM: standard deviation of the images in [-1, 1]; none: measured
    p_mean: Float = -1.2  # EDM: mean of ln sigma in training
    p_std: PositiveFloat = 1.2  # EDM: its standard deviation


class Training(Section):
    """The optimization of one run."""

    duration: DurationText = "40000 epochs"
    batch_size: PositiveInt = 512
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: PositiveFloat = 2e-4
    lr_ramp: SpanText = "200 epochs"  # linear from 0
    momentum: Annotated[Float, Field(ge=0, lt=1)] = 0.9  # of sgd
    weight_decay: Annotated[Float, Field(ge=0)] = 0.0
    decoupled: Bool = False  # weight decay outside the gradient (AdamW) instead of L2 in it
    ema_decays: Annotated[list[Decay], Field(min_length=1)] = [0.99929]  # per step, all tracked in one run
    ema_ramp: SpanText = "200 epochs"
    ema_warmup: Literal["own", "common"] = "own"  # how a decay grows during the ramp; see schedules.ema_decay
    precision: Precision = "float32"  # of the network's arithmetic; weights, averages and updates are float32
    gpus: Annotated[Int, Field(ge=1, le=64)] = 1  # devices that train one run together; each takes its share of a batch
    flip: Annotated[Float, Field(ge=0, le=1)] = 0.0  # probability that an image is mirrored left to right
    order: Literal["shuffled", "fixed"] = "shuffled"  # a fresh permutation each epoch, or the first one for ever
    snapshots: Annotated[list[Share], Field(min_length=1, max_length=256)] = [0.25, 0.5, 0.75, 1.0]

    @model_validator(mode="after")
    def _check(self) -> "Training":
        if self.snapshots != sorted(set(self.snapshots)) or self.snapshots[-1] != 1.0:
            raise ValueError(f"snapshots = {self.snapshots}: must be increasing shares of the budget that end with 1.0")
        if len(set(self.ema_decays)) != len(self.ema_decays):
            raise ValueError(f"ema_decays = {self.ema_decays}: must not repeat a value")
        if self.batch_size % self.gpus:
            raise ValueError(f"gpus = {self.gpus}: must divide batch_size = {self.batch_size}")
        return self


class Sampling(Section):
    """Generation: the deterministic 2nd-order sampler of Karras et al. 2022."""

    images: PositiveInt = 10_000
    steps: Annotated[Int, Field(ge=2, le=10_000)] = 18
    sigma_min: PositiveFloat = 0.002
    sigma_max: PositiveFloat = 80.0
    rho: PositiveFloat = 7.0
    precision: Precision = "float32"  # of the network's arithmetic; the images in between are float64
    ema_decay: Decay | None = None  # which of training.ema_decays; none: the first

    @model_validator(mode="after")
    def _check(self) -> "Sampling":
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min = {self.sigma_min:g}: must be below sigma_max = {self.sigma_max:g}")
        return self


class Scoring(Section):
    """The memorization criterion: nearest distance below `threshold` times the second nearest."""

    threshold: Annotated[Float, Field(gt=0, lt=1)] = 1 / 3
    mirrored: Bool = False  # a training image and its mirror image count as one: the set as augmented by flips
    distinct: Bool = True  # exact duplicates of a training image count as one neighbour
    neighbours: Annotated[Int, Field(ge=2, le=1024)] = 10  # stored for each generated image
    snapshot: Literal["last", "best"] = "last"  # which one enters the search; `best` is the paper's rule


class Search(Section):
    """How EMM is looked for over N."""

    rule: Literal["bisection", "grid"] = "bisection"
    epsilon: Annotated[Float, Field(gt=0, lt=1)] = 0.1  # EMM is where the ratio crosses 1 - epsilon
    n_min: Annotated[Int, Field(ge=2)] = 100
    n_max: Annotated[Int, Field(ge=2)] | None = 50_000  # none: as many images as the data have
    start: Annotated[Int, Field(ge=2)] = 1000
    steps_per_octave: Annotated[Int, Field(ge=1, le=64)] = 8  # of the ladder of sizes
    locate: Annotated[Int, Field(ge=1, le=100)] = 8  # at most so many locating runs
    confirm: Annotated[Int, Field(ge=0, le=100)] = 4  # fresh replicates either side of the crossing
    parallel: Annotated[Int, Field(ge=1, le=64)] = 1  # locating runs asked for at once
    slope: PositiveFloat = 2.5  # expected fall of the logit per doubling of N, until the runs tell
    spread: PositiveFloat = 1.4  # logits from the crossing to the outer sizes of four confirming runs
    grid: list[Annotated[Int, Field(ge=2)]] = []  # sizes of rule grid
    replicates: PositiveInt = 1  # runs at each size of rule grid

    @model_validator(mode="after")
    def _check(self) -> "Search":
        if self.n_max is not None and self.n_min >= self.n_max:
            raise ValueError(f"n_min = {self.n_min}: must be below n_max = {self.n_max}")
        if self.n_max is None and self.start < self.n_min:
            raise ValueError(f"start = {self.start}: must be at least n_min = {self.n_min}")
        if self.n_max is not None and not self.n_min <= self.start <= self.n_max:
            raise ValueError(f"start = {self.start}: must lie between n_min = {self.n_min} and n_max = {self.n_max}")
        if self.rule == "grid" and (not self.grid or self.grid != sorted(set(self.grid))):
            raise ValueError(f"grid = {self.grid}: rule grid needs increasing sizes, such as [500, 1000, 2000]")
        if self.rule == "bisection" and self.confirm in (1, 2, 3):
            raise ValueError(f"confirm = {self.confirm}: must be 0 or at least 4 (two either side of the crossing)")
        return self


GPU_NAME = r"\d{1,4}|(GPU|MIG)-[0-9A-Za-z/-]{1,100}"  # of one device in CUDA_VISIBLE_DEVICES


def _gpus(value: object) -> object:
    value = as_number(value)
    if value is None or value in ("none", "auto") or (type(value) is int and 1 <= value <= 1024):
        return "none" if value is None else value
    if isinstance(value, list) and value and all(type(one) in (int, str) for one in value):
        names = [str(int(one)) if str(one).isdecimal() else str(one) for one in value]
        if all(re.fullmatch(GPU_NAME, name) for name in names) and len(set(names)) == len(names):
            return names
    raise ValueError(
        "must be auto, none, a number from 1 to 1024, or a list of different GPUs by their numbers or UUIDs, such as "
        "[0, 1] or [GPU-8f6b1c2e, MIG-3c1f5d07]"
    )


class Execution(Section):
    """Where and how jobs run.  Nothing here changes a result beyond rounding, so nothing here enters a key."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    # Of this machine, shared out among jobs.  auto: all that are visible; none: not shared out, each job sees them all.
    gpus: Annotated[Literal["auto", "none"] | int | list[int | str], BeforeValidator(_gpus)] = "auto"
    jobs_per_gpu: Annotated[Int, Field(ge=1, le=1024)] = 1  # at once on one of them
    threads: PositiveInt = 1  # of one training or sampling job
    state_seconds: PositiveFloat = 30.0  # between two saves of the training state
    log_seconds: PositiveFloat = 20.0  # between two log lines where there is no terminal
    sampling_batch: PositiveInt = 500
    compile: Literal["auto", "never", "always"] = "auto"  # auto: trainings so long that compiling pays
    throughput: PositiveFloat | None = None  # GFLOP/s of one job, by `emm plan`: cluster jobs get 1.5 times their time
    longest_job: PositiveInt = 1440  # minutes that a cluster allows; trainings that take longer go on in the next job


class Figures(Section):
    """Style of the figures."""

    width: Annotated[Float, Field(ge=3, le=20)] = 7.0  # inches
    dpi: Annotated[Int, Field(ge=50, le=600)] = 150  # of the PNG files
    gallery: Annotated[Int, Field(ge=2, le=16)] = 8  # columns of the gallery


class Setup(Section):
    """Everything that decides the outcome of an arm: the base settings with the arm's overrides."""

    seed: Annotated[Int, Field(ge=0, lt=2**31)] = 0
    data: Data = Data()
    network: Network = Network()
    diffusion: Diffusion = Diffusion()
    training: Training = Training()
    sampling: Sampling = Sampling()
    scoring: Scoring = Scoring()
    search: Search = Search()

    @model_validator(mode="after")
    def _check(self) -> "Setup":
        decay, decays = self.sampling.ema_decay, self.training.ema_decays
        if decay is not None and decay not in decays:
            raise ValueError(f"sampling.ema_decay = {decay:g}: must be one of training.ema_decays = {decays}")
        levels = len(self.network.multipliers)
        if self.network.skips is not None and len(self.network.skips) != skip_count(self.network):
            raise ValueError(
                f"network.skips = {self.network.skips}: must have {skip_count(self.network)} flags "
                f"({levels} levels x ({self.network.blocks} blocks + 1)), not {len(self.network.skips)}"
            )
        return self
