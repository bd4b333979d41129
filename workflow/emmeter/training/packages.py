"""Packages: the training step, or the denoiser, of one architecture, compiled ahead of time.

AOTInductor compiles a function of `emmeter.diffusion.functional`.  The result loads in milliseconds, and needs neither
a compiler nor the modules of torch's compiler.  One package serves every training size, label count and skip mask of an
architecture, in all processes and projects of a user.  So packages are stored in the user's cache.

A package depends on the processor or the GPU, on torch and on the number of threads; its name is a hash of all these.
"""

import functools
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from emmeter import locks, project
from emmeter.diffusion.functional import Layout, denoising, step
from emmeter.diffusion.precision import cast, choose
from emmeter.diffusion.preconditioning import Denoiser, preconditioning
from emmeter.diffusion.unet import UNet
from emmeter.errors import StageError
from emmeter.files.writing import replacing, write_text
from emmeter.settings.sections import Diffusion, Network, Setup
from emmeter.settings.types import Precision

VERSION = 1  # of the compiled functions: raise it when their arguments or results change
TOLERANCE = {"float32": 1e-4, "tf32": 2e-2, "bfloat16": 0.1}  # largest relative difference of a new package from eager
VARIABLE = "EMM_PACKAGES"  # environment variable: the folder of the packages

Kind = Literal["step", "denoiser"]
When = Literal["never", "auto", "build", "always"]


class PackageError(StageError):
    """A package cannot be built or loaded on this machine."""


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a package, beside the machine.

    Attributes:
        kind: "step" (loss and gradients) or "denoiser".
        network: without skip mask, which is an input of the package.
        shape: (C, H, W) of the images.
        batch: images per call.
        precision: in which the network computes.
        device: type of the device, "cpu" or "cuda".
        threads: of the process.
    """

    kind: Kind
    network: Network
    diffusion: Diffusion
    shape: tuple[int, int, int]
    batch: int
    precision: Precision
    device: str
    threads: int

    @functools.cached_property
    def key(self) -> str:
        """Name of the package on this machine: 16 hexadecimal digits."""
        network = self.network.model_dump(exclude={"dropout"} if self.kind == "denoiser" else set())
        content = [
            VERSION, torch.__version__, machine(self.device), self.kind, network, self.diffusion.model_dump(),
            self.shape, self.batch, self.precision, self.threads,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def path(self) -> Path:
        """The package's file.  On a CPU it is a bare shared library, which is loaded from where it is."""
        return folder() / f"{self.key}.{'so' if self.device == 'cpu' else 'pt2'}"


def recipe(kind: Kind, setup: Setup, shape: Sequence[int], device: torch.device, threads: int, batch: int) -> Recipe:
    """The recipe for a run's network."""
    channels, height, width = shape
    network = setup.network.model_copy(update={"skips": None})
    precision = setup.training.precision if kind == "step" else setup.sampling.precision
    return Recipe(
        kind, network, setup.diffusion, (channels, height, width), batch, precision, device.type, threads,
    )  # fmt: skip


def folder() -> Path:
    """The folder of the user's packages."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(os.environ.get(VARIABLE) or cache / "emmeter" / "packages")


@functools.cache
def machine(device: str) -> str:
    """Describe a GPU, or the instructions of this processor as far as compilers may use them."""
    if device != "cpu":
        return f"{torch.cuda.get_device_name()} {torch.cuda.get_device_capability()} {torch.version.cuda}"
    features = torch.backends.cpu.get_cpu_capability()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        line = next(line for line in lines if line.startswith(("flags", "Features")))
        features += " " + " ".join(sorted(line.partition(":")[2].split()))
    except (OSError, StopIteration):
        features += f" {platform.processor()}"
    return f"{platform.system()} {platform.machine()} {hashlib.sha256(features.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Package:
    """A loaded package: a function of tensors, without gradients of its own.

    Attributes:
        key: name of the package.
        batch: images per call.
    """

    key: str
    batch: int
    run: Callable[[list[Any]], list[Tensor]]

    def __call__(self, *inputs: Tensor | None) -> list[Tensor]:
        return self.run(list(inputs))


def load(chosen: Recipe) -> Package:
    """Load a package that has been built.

    Raises:
        PackageError: there is no package, or it does not load.
    """
    if not chosen.path.is_file():
        raise PackageError(f"{chosen.path}: is missing")
    try:
        return Package(chosen.key, chosen.batch, _loaded(chosen.path, chosen.device))
    except Exception as error:  # of many types, depending on the loader
        raise PackageError(f"{chosen.path}: does not load ({_line(error)}); delete it") from None


def _loaded(path: Path, device: str) -> Callable[[list[Tensor]], list[Tensor]]:
    # The public loader, torch._inductor.aoti_load_package, imports the compiler, which takes seconds.
    from torch._C import _aoti  # type: ignore[attr-defined]

    if device == "cpu":
        return _aoti.AOTIModelContainerRunnerCpu(str(path), 1).run
    return _aoti.AOTIModelPackageLoader(str(path), "model", True, 1, torch.cuda.current_device()).run


def build(chosen: Recipe, again: bool = False) -> None:
    """Build a package unless it exists, in a process of its own, so that this process does not load the compiler.

    A second process that builds the same package waits for the first one.  A failure is noted beside the package's
    path, so that not every job of a workflow spends a minute on it.

    Args:
        again: try although an earlier attempt has failed.
    Raises:
        PackageError: there is no compiler, or the package does not compute what eager PyTorch does.
    """
    failure = chosen.path.with_suffix(".failed")
    with locks.held(chosen.path.with_suffix(".lock")):
        if chosen.path.is_file():
            return
        if failure.is_file() and not again:
            raise PackageError(f"{failure.read_text(encoding='utf-8').strip()}; to try again, delete {failure}")
        content = {field.name: getattr(chosen, field.name) for field in fields(chosen)}
        content |= {"network": chosen.network.model_dump(), "diffusion": chosen.diffusion.model_dump()}
        command = [sys.executable, "-m", "emmeter.training.packages", json.dumps(content)]
        environment = os.environ | project.child_environment() | {"OMP_NUM_THREADS": str(chosen.threads)}
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode or not chosen.path.is_file():
            lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
            error = f"compiling failed: {lines[-1].removeprefix('error: ')}"
            write_text(failure, error + "\n")
            raise PackageError(error)
        failure.unlink(missing_ok=True)


def provided(chosen: Recipe, when: When) -> Package | None:
    """The package with which a job computes; None for eager PyTorch.

    Args:
        when: "never"; "auto", if the package exists; "build", and build it if it is missing; or "always", which fails
            where "build" prints a note and goes on without a package.
    Raises:
        PackageError: `when` is "always", and the package cannot be built or loaded.
    """
    if when == "never" or (when == "auto" and not chosen.path.is_file()):
        return None
    try:
        if when != "auto":
            build(chosen, again=when == "always")
        return load(chosen)
    except PackageError as error:
        if when == "always":
            raise PackageError(f"execution.compile = 'always': {error}; use auto or never") from None
        print(f"note: computed without a compiled package: {error}", file=sys.stderr, flush=True)
        return None


def network_of(chosen: Recipe) -> Denoiser:
    """Make an initialized denoiser without labels, in the mode in which the package runs."""
    network = UNet(chosen.network, chosen.shape[-1], chosen.shape[0]).to(memory_format=torch.channels_last)
    denoiser = Denoiser(network, preconditioning(chosen.diffusion)).train(chosen.kind == "step").to(chosen.device)
    cast(network, choose(chosen.precision))
    return denoiser


def example(chosen: Recipe, denoiser: Denoiser) -> tuple[Callable[..., Any], list[Tensor]]:
    """The function of a recipe, and inputs of the shapes that it takes."""
    parameters = dict(denoiser.network.named_parameters())
    layout = Layout.of(parameters)
    flat = layout.flat(parameter.detach() for parameter in parameters.values())
    images, noise = torch.randn(2, chosen.batch, *chosen.shape, device=chosen.device)
    sigma = torch.rand(chosen.batch, device=chosen.device) + 0.1
    embedding = denoiser.embed(sigma).detach()
    mask = torch.ones(len(denoiser.network.skip_flags), device=chosen.device)
    if chosen.kind == "denoiser":
        return denoising(denoiser, layout), [flat, images, sigma, embedding, mask]
    return step(denoiser, layout), [flat, images, sigma, noise, embedding, mask]


def traced(chosen: Recipe, function: Callable[..., Any], inputs: list[Tensor]) -> torch.nn.Module:
    """The function as one graph of operations, gradients included.

    It is traced with fake tensors, as the compiler computes shapes and strides.  The strides of a GPU's attention
    differ from these.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    with torch.set_grad_enabled(chosen.kind == "step"):
        return make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)


def compiled(chosen: Recipe) -> None:
    """Trace, export and compile the function of a recipe; store the package if it agrees with eager PyTorch.

    Raises:
        PackageError: the compiler fails, or the package disagrees with eager PyTorch.
    """
    from torch._inductor import aoti_compile_and_package

    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    function, inputs = example(chosen, network_of(chosen))
    try:
        graph = _Module(traced(chosen, function, inputs))
        with torch.no_grad(), tempfile.TemporaryDirectory() as scratch:
            program = torch.export.export(graph, tuple(inputs), strict=False)
            package = Path(aoti_compile_and_package(program, package_path=f"{scratch}/package.pt2"))
            with replacing(chosen.path) as path:
                if chosen.device == "cpu":
                    with zipfile.ZipFile(package) as archive:
                        (name,) = [name for name in archive.namelist() if name.endswith(".so")]
                        path.write_bytes(archive.read(name))
                else:
                    path.write_bytes(package.read_bytes())
                check(chosen, path, function, inputs)
    except PackageError:
        raise
    except Exception as error:  # each compiler raises its own kind
        raise PackageError(_line(error)) from None


def check(chosen: Recipe, path: Path, function: Callable[..., Any], inputs: list[Tensor]) -> None:
    """Compare a package with eager PyTorch on weights that are far from their start.

    Raises:
        PackageError: they differ by more than rounding.
    """
    inputs = [inputs[0] + 0.05 * torch.randn_like(inputs[0]), *inputs[1:]]
    run = _loaded(path, chosen.device)
    torch.manual_seed(1)
    expected = function(*inputs)
    torch.manual_seed(1)  # of dropout
    outputs = run(inputs)
    for value, output in zip(expected if isinstance(expected, tuple) else (expected,), outputs, strict=True):
        difference = (value - output).abs().max() / value.abs().max()
        if not difference <= TOLERANCE[chosen.precision]:
            raise PackageError(f"the package's results are off by {difference:.2g}, more than rounding")


class _Module(torch.nn.Module):
    """A function as a module, which `torch.export` asks for."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])


def main(argv: list[str] | None = None) -> None:
    content = json.loads((sys.argv[1:] if argv is None else argv)[0])
    network, diffusion = Network(**content.pop("network")), Diffusion(**content.pop("diffusion"))
    chosen = Recipe(network=network, diffusion=diffusion, shape=tuple(content.pop("shape")), **content)
    try:
        compiled(chosen)
    except PackageError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
