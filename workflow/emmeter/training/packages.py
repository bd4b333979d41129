"""Packages: the training step, or the denoiser, of one architecture, compiled ahead of time.

AOTInductor compiles a function of `emmeter.diffusion.functional`.  The result loads in milliseconds, and needs neither
a compiler nor the modules of torch's compiler.  One package serves every training size, label count and skip mask of an
architecture, in all processes and projects of a user.  So packages are stored in the user's cache.

A package depends on the processor or the GPU, on torch and on the number of threads; its name is a hash of all these.
"""

import contextlib
import functools
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from emmeter import locks, project
from emmeter.diffusion.functional import Layout, denoising, step
from emmeter.diffusion.networks import build_network
from emmeter.diffusion.precision import cast, choose
from emmeter.diffusion.preconditioning import Denoiser, preconditioning
from emmeter.errors import StageError, reason
from emmeter.files.writing import replacing, write_text
from emmeter.machine.process import Interrupted, Stop, end_with_parent
from emmeter.training import architecture
from emmeter.training.architecture import Architecture

VERSION = 3  # of the compiled functions: raise it when their arguments, results or graphs change
TOLERANCE = {"float32": 1e-4, "tf32": 2e-2, "bfloat16": 0.1}  # largest relative difference of a new package from eager
VARIABLE = "EMM_PACKAGES"  # environment variable: the folder of the packages
POLL = 0.2  # seconds between two looks at a build and at requests to end it
FAILED = "error: "  # head of the line in which the compiling process reports its failure

When = Literal["never", "auto", "build", "always"]


class PackageError(StageError):
    """A package cannot be built or loaded on this machine."""


@dataclass(frozen=True)
class Recipe:
    """An architecture on this machine.

    Attributes:
        device: type of the device, "cpu" or "cuda".
        threads: of the process.
    """

    architecture: Architecture
    device: str
    threads: int

    @functools.cached_property
    def key(self) -> str:
        """Name of the package: 16 hexadecimal digits."""
        content = [VERSION, torch.__version__, machine(self.device), self.architecture.text(), self.threads]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @property
    def path(self) -> Path:
        """The package's file.  On a CPU it is a bare shared library, which is loaded from where it is."""
        return folder() / f"{self.key}.{'so' if self.device == 'cpu' else 'pt2'}"


def here(wanted: Architecture, device: torch.device) -> Recipe:
    """The recipe for this process, whose number of threads has been set."""
    return Recipe(wanted, device.type, torch.get_num_threads())


def folder() -> Path:
    """The folder of the user's packages."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "emmeter" / "packages"


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
        return Package(chosen.key, chosen.architecture.batch, _loaded(chosen.path, chosen.device))
    except Exception as error:  # of many types, depending on the loader
        raise PackageError(f"{chosen.path}: does not load ({reason(error)}); delete it") from None


def _loaded(path: Path, device: str) -> Callable[[list[Tensor]], list[Tensor]]:
    # The public loader, torch._inductor.aoti_load_package, imports the compiler, which takes seconds.
    from torch._C import _aoti  # type: ignore[attr-defined]

    if device == "cpu":
        return _aoti.AOTIModelContainerRunnerCpu(str(path), 1).run
    return _aoti.AOTIModelPackageLoader(str(path), "model", True, 1, torch.cuda.current_device()).run


def build(chosen: Recipe, again: bool = False, stop: Stop | None = None) -> None:
    """Build a package unless it exists, in a process of its own, so that this process does not load the compiler.

    A second process that builds the same package waits for the first one.  A failure of the compiler is noted beside
    the package's path, so that not every job of a workflow spends a minute on it.  A build that is killed is not noted.

    Args:
        again: try although an earlier attempt has failed.
        stop: when set, the build ends.
    Raises:
        Interrupted: `stop` was set.
        PackageError: there is no compiler, or the package does not compute what eager PyTorch does.
        OSError: the folder of packages cannot be written.
    """
    failure = chosen.path.with_suffix(".failed")
    with locks.held(chosen.path.with_suffix(".lock")):
        if chosen.path.is_file():
            return
        if stop and stop.is_set():  # while another process was building
            raise Interrupted
        if failure.is_file() and not again:
            raise PackageError(f"{failure.read_text(encoding='utf-8').strip()}; to try again, delete {failure}")
        command = [
            sys.executable, "-m", "emmeter.training.packages", chosen.architecture.text(), chosen.device,
            str(chosen.threads),
        ]  # fmt: skip
        environment = os.environ | project.child_environment() | {"OMP_NUM_THREADS": str(chosen.threads)}
        status, errors = _ended(command, environment, stop)
        if status or not chosen.path.is_file():
            last = (errors.strip().splitlines() or [""])[-1]
            if not last.startswith(FAILED):
                raise PackageError(f"compiling ended with status {status} ({last or 'no reason given'})")
            error = f"compiling failed: {last.removeprefix(FAILED)}"
            write_text(failure, error + "\n")
            raise PackageError(error)
        failure.unlink(missing_ok=True)


def _ended(command: Sequence[str], environment: Mapping[str, str], stop: Stop | None) -> tuple[int, str]:
    """Run a command to its end; return its exit status and what it wrote to standard error.

    If this process is to end first, the command and all that it has started end, too.
    """
    child = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                _, errors = child.communicate(timeout=POLL)
                return child.returncode, errors
            if stop and stop.is_set():
                raise Interrupted
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        raise


def provided(chosen: Recipe, when: When, stop: Stop | None = None) -> Package | None:
    """The package with which a job computes; None for eager PyTorch.

    Args:
        when: "never"; "auto", if the package exists; "build", and build it if it is missing; or "always", which fails
            where "build" prints a note and goes on without a package.
        stop: when set, a build ends.
    Raises:
        Interrupted: `stop` was set during a build.
        PackageError: `when` is "always", and the package cannot be built or loaded.
    """
    if when == "never":
        return None
    try:
        if when == "auto" and not chosen.path.is_file():
            return None
        if when != "auto":
            build(chosen, when == "always", stop)
        return load(chosen)
    except (PackageError, OSError) as error:
        why = str(error)
        if isinstance(error, OSError):  # of the folder, which may be on a full disk, or not the user's
            why = f"{error.filename}: {error.strerror}; {VARIABLE} must name a folder that can be written"
        if when == "always":
            raise PackageError(f"execution.compile = 'always': {why}; use auto or never") from None
        print(f"note: computed without a compiled package: {why}", file=sys.stderr, flush=True)
        return None


def network_of(chosen: Recipe) -> Denoiser:
    """Make an initialized denoiser without labels, in the mode in which the package runs."""
    wanted = chosen.architecture
    network = build_network(wanted.network, wanted.shape[-1], wanted.shape[0]).to(memory_format=torch.channels_last)
    denoiser = Denoiser(network, preconditioning(wanted.diffusion)).train(wanted.kind == "step").to(chosen.device)
    cast(network, choose(wanted.precision))
    return denoiser


def example(chosen: Recipe, denoiser: Denoiser) -> tuple[Callable[..., Any], list[Tensor]]:
    """The function of a recipe, and inputs of the shapes that it takes."""
    parameters, wanted = dict(denoiser.network.named_parameters()), chosen.architecture
    layout = Layout.of(parameters)
    flat = layout.flat(parameter.detach() for parameter in parameters.values())
    images, noise = torch.randn(2, wanted.batch, *wanted.shape, device=chosen.device)
    sigma = torch.rand(wanted.batch, device=chosen.device) + 0.1
    embedding = denoiser.embed(sigma).detach()
    mask = torch.ones(len(denoiser.network.skip_flags), device=chosen.device)
    if wanted.kind == "denoiser":
        return denoising(denoiser, layout), [flat, images, sigma, embedding, mask]
    return step(denoiser, layout), [flat, images, sigma, noise, embedding, mask]


def traced(chosen: Recipe, function: Callable[..., Any], inputs: list[Tensor]) -> torch.nn.Module:
    """The function as one graph of operations, gradients included.

    It is traced with fake tensors, as the compiler computes shapes and strides.  Where the compiler replaces an
    operation by others, strides can still change: its group normalization for a GPU returns channels first.  A view
    that was recorded for other strides would then fail, so each becomes a reshape, which copies only where it must.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    with torch.set_grad_enabled(chosen.architecture.kind == "step"):
        graph = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
    graph.recompile()
    return graph


def exported(chosen: Recipe, function: Callable[..., Any], inputs: list[Tensor]) -> Any:
    """The function as a program that the compiler takes (`torch.export.ExportedProgram`)."""
    graph = _Module(traced(chosen, function, inputs))
    with torch.no_grad():
        return torch.export.export(graph, tuple(inputs), strict=False)


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
        program = exported(chosen, function, inputs)
        with torch.no_grad(), tempfile.TemporaryDirectory() as scratch:
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
        raise PackageError(reason(error)) from None


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
        if not difference <= TOLERANCE[chosen.architecture.precision]:
            raise PackageError(f"the package's results are off by {difference:.2g}, more than rounding")


class _Module(torch.nn.Module):
    """A function as a module, which `torch.export` asks for."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def main(argv: list[str] | None = None) -> None:
    text, device, threads = sys.argv[1:] if argv is None else argv
    end_with_parent(signal.SIGTERM)
    try:
        compiled(Recipe(architecture.read(text), device, int(threads)))
    except PackageError as error:
        sys.exit(f"{FAILED}{error}")


if __name__ == "__main__":
    main()
