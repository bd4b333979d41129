"""The settings: one strict, frozen model.  Every fault is one line that names the key, its value and what is allowed.

`configuration` reads the files and resolves the arms of the studies; a stage receives the settings of one `Run`.
"""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

# Rules of the workflow, beside which studies are rules of their own.
RULES = (
    "all", "plan", "subset", "train", "sample", "score", "search", "study", "figures", "onset_figure", "summary",
    "findings_table", "findings", "published", "report",
)  # fmt: skip


class SettingsError(ValueError):
    """The configuration is wrong.  Each line of the message names one key, its value and what is allowed.

    Given are the lines; characters that would break one, which a key may hold, are written as escapes.
    """

    def __init__(self, *lines: str):
        super().__init__("\n".join(map(_printable, lines)))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _number(value: object) -> object:
    """Read numbers that arrive as text: YAML 1.1 takes ``4e-3`` for a string, and ``--config`` may quote."""
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                pass
        if re.fullmatch(r"[0-9]{1,99}/[1-9][0-9]{0,99}", value):
            return float(Fraction(value))
    return value


def _boolean(value: object) -> object:
    """Read booleans that arrive as text from ``--config``."""
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be text that can be written as UTF-8") from None
    return value


Text = Annotated[str, AfterValidator(_text)]
Int = Annotated[int, BeforeValidator(_number)]
Float = Annotated[float, BeforeValidator(_number), AfterValidator(_finite)]
Bool = Annotated[bool, BeforeValidator(_boolean)]
PositiveInt = Annotated[Int, Field(ge=1)]
PositiveFloat = Annotated[Float, Field(gt=0)]
Flag = Annotated[Literal[0, 1], BeforeValidator(_number)]
Share = Annotated[Float, Field(gt=0, le=1)]
Decay = Annotated[Float, Field(ge=0, lt=1)]
Precision = Literal["float32", "tf32", "bfloat16"]


class Section(BaseModel):
    """A group of settings: unknown keys and wrong types are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _nulls(cls, given: Any) -> Any:
        """Read null that arrives as text from ``--config``, where a setting may be none."""
        if not isinstance(given, Mapping) or "null" not in (one for one in given.values() if isinstance(one, str)):
            return given
        optional = {key for key, field in cls.model_fields.items() if type(None) in get_args(field.annotation)}
        return {key: None if key in optional and value == "null" else value for key, value in given.items()}


@dataclass(frozen=True)
class Span:
    """A stretch of training: a number of images, of passes over the training set, or a share of the budget."""

    amount: float
    unit: Literal["images", "epochs", "%"]

    @classmethod
    def parse(cls, text: object) -> "Span":
        """Read ``"40000 images"``, ``"200 epochs"`` or ``"2 %"``.  Raises ValueError for anything else."""
        match = re.fullmatch(r"([0-9][0-9_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*(images|epochs|%)", str(text).strip())
        if not match or not math.isfinite(float(match[1])):
            raise ValueError('must be a span such as "40000 images", "200 epochs" or "2 %"')
        return cls(float(match[1]), match[2])  # type: ignore[arg-type]

    def images(self, train_size: int, budget: float = math.nan) -> float:
        """The span in training images, for N = `train_size` and a run of `budget` images (needed for %)."""
        return self.amount * {"images": 1.0, "epochs": float(train_size), "%": budget / 100}[self.unit]

    def __str__(self) -> str:
        return f"{self.amount:.15g} {self.unit}"


def _span(text: str) -> str:
    return str(Span.parse(text))  # one spelling, so that two make one key


def _duration(text: str) -> str:
    span = Span.parse(text)
    if span.unit == "%" or span.amount <= 0:
        raise ValueError('must be a positive number of images or epochs, such as "40000 epochs"')
    return str(span)


SpanText = Annotated[str, AfterValidator(_span)]
DurationText = Annotated[str, AfterValidator(_duration)]

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
    value = _number(value)
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


class Run(Section):
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
    def _check(self) -> "Run":
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


class Arm(Section):
    """One setting of a study's factor."""

    name: str
    run: Run


class Finding(Section):
    """A claim about the arms of a study, as data: `emm.findings` judges it from their intervals.

    ``more`` and ``less``: the first arm's EMM against the second's.  ``same``: they differ by less than a factor of
    `margin`.  ``increasing`` and ``decreasing``: along all arms named.  ``proportional``: the first arm's onset of
    memorization grows in proportion to N.  With ``at`` the claim is about the memorization ratio of runs on so many
    images instead, compared by the odds of a copy.
    """

    claim: Text
    source: Text = ""
    expect: Literal["more", "less", "same", "increasing", "decreasing", "proportional"]
    arms: Annotated[list[str], Field(min_length=1)]
    margin: Annotated[Float, Field(gt=1, le=10)] = 1.25
    at: Annotated[Int, Field(ge=2)] | None = None  # training images, where the claim is about the ratio at one size

    @model_validator(mode="after")
    def _check(self) -> "Finding":
        if self.at is not None and self.expect == "proportional":
            raise ValueError(f"at = {self.at}: a claim of proportionality is about all sizes; leave it out")
        needed = {"proportional": (1, 1), "more": (2, 2), "less": (2, 2), "same": (2, 2)}.get(self.expect, (2, 100))
        if not needed[0] <= len(self.arms) <= needed[1] or len(set(self.arms)) != len(self.arms):
            count = f"{needed[0]} or more" if needed[1] == 100 else str(needed[0])
            raise ValueError(f"arms = {self.arms}: must be {count} different arms for expect: {self.expect}")
        return self


class Study(Section):
    """A factor study: arms that differ in one factor, and the figure of the paper that they follow."""

    name: str
    title: str
    source: str
    factor: str
    arms: list[Arm]
    findings: dict[str, Finding] = {}
    faults: list[str] = []  # a line for every value that does not fit the base settings; such arms are not among `arms`


class Settings(Section):
    """The whole configuration, resolved."""

    base: Run
    execution: Execution
    figures: Figures
    studies: list[Study]
    selected: list[str]  # studies that the default target makes


def read_run(config: Mapping[str, Any]) -> Run:
    """Validate the (possibly partial) settings of one run, as stages receive them.  Raises SettingsError."""
    return validate(Run, config)


def lookup(run: Run, dotted: str) -> Any:
    """The value of a dotted setting such as ``data.labels``.  Raises SettingsError for a name that does not exist."""
    node: Any = run
    parts = dotted.split(".")
    for depth, part in enumerate(parts):
        fields = list(type(node).model_fields) if isinstance(node, BaseModel) else []
        if part not in fields:
            prefix = ".".join(parts[:depth])
            if not fields:
                raise SettingsError(f"{dotted}: {prefix} is a value and has no keys")
            raise SettingsError(f"{dotted}: {expected(part, fields, f'a key of {prefix}' if prefix else 'a section')}")
        node = getattr(node, part)
    return node


def validate(model: type, config: object) -> Any:
    """`config` as a `model`.  Raises SettingsError: one line for every fault."""
    if not isinstance(config, Mapping):
        raise SettingsError(f"configuration = {config!r}: must be a mapping of settings")
    # A section whose lines are all commented out is null in YAML; it has its defaults.
    given = {key: {} if value is None and _is_section(model, key) else value for key, value in config.items()}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise SettingsError(*(_line(model, fault) for fault in error.errors())) from None


def _is_section(model: type[BaseModel], key: str) -> bool:
    annotation = model.model_fields[key].annotation if key in model.model_fields else None
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _line(model: type[BaseModel], fault: Mapping[str, Any]) -> str:
    """One fault as one line: key = value: what is allowed."""
    # Pydantic adds the tried member of a union to the location; a key never looks like these.
    member = re.compile(r"(list|literal|dict|function-\w+)\[.*\]")
    path = [str(p) for p in fault["loc"] if not member.fullmatch(str(p))]
    key = ".".join(path) or "configuration"
    if fault["type"] == "extra_forbidden":
        fields = _fields(model, path[:-1])
        return f"{key}: {expected(path[-1], fields, 'a key of ' + '.'.join(path[:-1]) if path[1:] else 'a key')}"
    if fault["type"] == "missing":
        return f"{key}: is missing"
    message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    whole = isinstance(fault["input"], Mapping | BaseModel) and not message.startswith("must ")
    if fault["type"] == "value_error" and whole:
        return ".".join([*path, message])  # a check over several keys names its own
    if fault["type"] == "literal_error" and isinstance(fault["input"], str):
        near = difflib.get_close_matches(fault["input"], re.findall(r"'([^']*)'", message), 1)
        message += f"; did you mean {near[0]!r}?" if near else ""
    shown = repr(fault["input"])
    return f"{key} = {shown if len(shown) < 80 else shown[:77] + '...'}: {message[:1].lower() + message[1:]}"


def _fields(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
        else:  # a mapping of names to models, such as `studies`
            inner = [a for a in get_args(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]
            model = inner[0] if inner else model
    return list(model.model_fields)


def expected(name: str, names: list[str], what: str) -> str:
    """The end of a line about an unknown name: the nearest one, or all that are allowed."""
    near = difflib.get_close_matches(name, names, 1, 0.5)
    return f"is not {what}; " + (f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(names)}")
