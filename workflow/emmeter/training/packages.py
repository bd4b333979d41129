"""Compiled packages: the training step, or the denoiser, of one architecture, compiled ahead of time.

AOTInductor turns a function of `emmeter.diffusion.functional` into a shared library.  The library loads in milliseconds
and needs neither a compiler nor the modules of torch's compiler.  One library serves every training size, label count
and skip mask of an architecture, in all processes and projects of a user, so it is stored in the user's cache.

A library depends on the processor, on torch and on the number of threads; its name is a hash of all of these.
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
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from emmeter import project
from emmeter.diffusion.functional import LABELS, Layout, denoising, step
from emmeter.diffusion.preconditioning import Denoiser, preconditioning
from emmeter.diffusion.unet import UNet
from emmeter.files.writing import replacing
from emmeter.settings.sections import Diffusion, Network, Setup

VERSION = 1  # of the compiled functions: raise it when their arguments or results change
TOLERANCE = 1e-4  # relative difference from eager that a new library may have: rounding in another order
VARIABLE = "EMM_PACKAGES"  # environment variable: the folder of the libraries

Function = Callable[[list[Tensor]], list[Tensor]]


class PackageError(RuntimeError):
    """A library cannot be built or loaded on this machine; the message is one line."""


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a library.

    kind: "step" (loss and gradients) or "denoiser".
    shape: (C, H, W) of the images.
    batch: images per call.
    threads: of the process.
    """

    kind: Literal["step", "denoiser"]
    network: Network
    diffusion: Diffusion
    shape: tuple[int, int, int]
    batch: int
    threads: int

    def key(self) -> str:
        """Name the library: 16 hexadecimal digits."""
        network = self.network.model_dump(exclude={"skips"} | ({"dropout"} if self.kind == "denoiser" else set()))
        content = [
            VERSION, torch.__version__, processor(), self.kind, network, self.diffusion.model_dump(), self.shape,
            self.batch, self.threads,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def path(self) -> Path:
        return folder() / f"{self.key()}.so"


def recipe(kind: Literal["step", "denoiser"], setup: Setup, shape: tuple[int, ...], batch: int, threads: int) -> Recipe:
    """The recipe for a run's network; skip masks are inputs, so all of them share a library."""
    channels, height, width = shape
    return Recipe(
        kind, setup.network.model_copy(update={"skips": None}), setup.diffusion, (channels, height, width), batch,
        threads,
    )  # fmt: skip


def folder() -> Path:
    """Where the user's libraries are stored."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(os.environ.get(VARIABLE) or cache / "emmeter" / "packages")


@functools.cache
def processor() -> str:
    """Name the instructions that this processor has, as far as compilers may use them."""
    features = torch.backends.cpu.get_cpu_capability()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        line = next(line for line in lines if line.startswith(("flags", "Features")))
        features += " " + " ".join(sorted(line.partition(":")[2].split()))
    except (OSError, StopIteration):
        features += f" {platform.processor()}"
    return f"{platform.system()} {platform.machine()} {hashlib.sha256(features.encode()).hexdigest()[:16]}"


def load(chosen: Recipe) -> Function:
    """The compiled function: list of tensors in, list of tensors out, without gradients of its own.

    Raises:
        PackageError: there is no library, or it does not load.
    """
    if not chosen.path.is_file():
        raise PackageError(f"{chosen.path}: is not there")
    try:
        from torch._C._aoti import AOTIModelContainerRunnerCpu  # the public loader imports the compiler: seconds

        return AOTIModelContainerRunnerCpu(str(chosen.path), 1).run
    except Exception as error:  # whatever the loader raises
        raise PackageError(f"{chosen.path}: does not load ({_line(error)})") from None


def build(chosen: Recipe) -> None:
    """Compile a library in a process of its own, so that this process does not load the compiler.

    Raises:
        PackageError: there is no compiler, or the library does not compute what eager PyTorch does.
    """
    text = json.dumps(
        {
            "kind": chosen.kind, "network": chosen.network.model_dump(), "diffusion": chosen.diffusion.model_dump(),
            "shape": chosen.shape, "batch": chosen.batch, "threads": chosen.threads,
        }
    )  # fmt: skip
    command = [sys.executable, "-m", "emmeter.training.packages", text]
    environment = os.environ | project.child_environment() | {"OMP_NUM_THREADS": str(chosen.threads)}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode or not chosen.path.is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise PackageError(f"compiling failed: {lines[-1].removeprefix('error: ')}")


def network_of(chosen: Recipe) -> Denoiser:
    """An initialized denoiser without labels, in the mode in which the library runs."""
    network = UNet(chosen.network, chosen.shape[-1], chosen.shape[0]).to(memory_format=torch.channels_last)
    return Denoiser(network, preconditioning(chosen.diffusion)).train(chosen.kind == "step")


def example(chosen: Recipe, denoiser: Denoiser) -> tuple[Callable[..., Any], list[Tensor]]:
    """The function of a recipe, and inputs of the shapes that it takes."""
    parameters = dict(denoiser.network.named_parameters())
    layout = Layout.of(parameters)
    assert not any(name.startswith(LABELS) for name in parameters)
    flat = layout.flat({name: parameter.detach() for name, parameter in parameters.items()})
    images = torch.randn(chosen.batch, *chosen.shape)
    sigma = torch.rand(chosen.batch) + 0.1
    embedding = denoiser.network.embed(denoiser.kind.coefficients(sigma).noise).detach()
    mask = torch.ones(len(denoiser.network.skip_flags))
    if chosen.kind == "denoiser":
        return denoising(denoiser, layout), [flat, images.double(), sigma.double(), embedding, mask]
    return step(denoiser, layout), [flat, images, sigma, torch.randn_like(images), embedding, mask]


def compiled(chosen: Recipe) -> None:
    """Trace, export and compile the function of a recipe; store the library where it agrees with eager.

    Raises:
        PackageError: the compiler fails, or the library disagrees with eager PyTorch.
    """
    from torch._inductor import aoti_compile_and_package
    from torch.fx.experimental.proxy_tensor import make_fx

    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    denoiser = network_of(chosen)
    function, inputs = example(chosen, denoiser)
    try:
        with torch.set_grad_enabled(chosen.kind == "step"):
            traced = make_fx(function, tracing_mode="real")(*inputs)
        with torch.no_grad(), tempfile.TemporaryDirectory() as scratch:
            program = torch.export.export(_Module(traced), tuple(inputs), strict=False)
            package = Path(aoti_compile_and_package(program, package_path=f"{scratch}/package.pt2"))
            with zipfile.ZipFile(package) as archive, replacing(chosen.path) as library:
                (name,) = [name for name in archive.namelist() if name.endswith(".so")]
                library.write_bytes(archive.read(name))
                check(replace(chosen), library, function, inputs)
    except PackageError:
        raise
    except Exception as error:  # of every compiler its own kind
        raise PackageError(_line(error)) from None


def check(chosen: Recipe, library: Path, function: Callable[..., Any], inputs: list[Tensor]) -> None:
    """Compare a library with eager PyTorch on weights that are not near their start.

    Raises:
        PackageError: they differ by more than rounding.
    """
    from torch._C._aoti import AOTIModelContainerRunnerCpu

    inputs = [inputs[0] + 0.05 * torch.randn_like(inputs[0]), *inputs[1:]]
    run = AOTIModelContainerRunnerCpu(str(library), 1).run
    torch.manual_seed(1)
    expected = function(*inputs)
    torch.manual_seed(1)  # of dropout
    outputs = run(inputs)
    for one, other in zip(expected if isinstance(expected, tuple) else (expected,), outputs, strict=True):
        difference = (one - other).abs().max() / one.abs().max()
        if not difference <= TOLERANCE:
            raise PackageError(f"the library is off by {difference:.2g}, more than rounding")


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
    fields = json.loads((sys.argv[1:] if argv is None else argv)[0])
    network, diffusion = Network(**fields.pop("network")), Diffusion(**fields.pop("diffusion"))
    chosen = Recipe(network=network, diffusion=diffusion, shape=tuple(fields.pop("shape")), **fields)
    try:
        compiled(chosen)
    except PackageError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
