"""Compiled packages: they compute what eager PyTorch does, for every label and mask; machines without a compiler."""

import dataclasses
import json
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from emmeter.machine.process import Interrupted, Stop
from emmeter.pipeline import compiling
from emmeter.settings.sections import Setup
from emmeter.training import architecture, log, packages, state
from emmeter.training.architecture import of_denoiser, of_step
from emmeter.training.packages import PackageError, Recipe
from emmeter.training.trainer import Trainer, start
from one_run import Pipeline, call
from small_run import CPU, N, setup_with, subset_of

THREADS = 1
SHAPE = (1, 8, 8)
DROPOUT = {"network": {"dropout": 0.2}}


def require_compiler() -> None:
    if compiling.missing_compiler():
        pytest.skip("this machine has no C++ compiler")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(THREADS)


def step_of(setup: Setup, threads: int = THREADS) -> Recipe:
    return Recipe(of_step(setup, SHAPE), "cpu", threads)


def denoiser_of(setup: Setup) -> Recipe:
    """The denoiser at 16 images per call."""
    more = setup.model_copy(update={"sampling": setup.sampling.model_copy(update={"images": 25})})
    return Recipe(of_denoiser(more, SHAPE, 16), "cpu", THREADS)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of the small run, step and denoiser, which takes a minute or two to build."""
    require_compiler()
    folder = tmp_path_factory.mktemp("packages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(packages.VARIABLE, str(folder))
        torch.set_num_threads(THREADS)
        packages.build(step_of(setup_with(**DROPOUT)))
        packages.build(denoiser_of(setup_with(**DROPOUT)))
    return folder


@pytest.fixture
def available(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(packages.VARIABLE, str(built))
    return built


def begun(folder: Path, compiled: packages.When, labels: int = 0, **changes: object) -> Trainer:
    setup = setup_with(**DROPOUT, **changes)
    return start(setup, subset_of(N, labels), N, 0, CPU, folder, compiled=compiled)


@pytest.mark.exhaustive  # builds a package
@pytest.mark.parametrize("labels", [0, 3])
@pytest.mark.parametrize("skips", [None, [1, 0]])
def test_a_package_trains_as_eager_pytorch_does(available, tmp_path, labels, skips):
    """One package serves all label counts and skip masks; dropout draws the same masks."""
    network = DROPOUT["network"] | {"skips": skips}
    setup = setup_with(network=network)
    eager, packaged = (
        start(setup, subset_of(N, labels), N, 0, CPU, tmp_path / when, compiled=when) for when in ("never", "auto")
    )
    assert eager.package is None
    assert packaged.package is not None
    for _ in range(8):
        losses = [trainer.advance().item() for trainer in (eager, packaged)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    moved = (eager.parameters.values - packaged.parameters.values).abs().max()
    assert moved < 1e-4
    rows = [log.append(trainer) for trainer in (eager, packaged)]
    assert rows[0]["train_loss"] == pytest.approx(rows[1]["train_loss"], rel=1e-4)


@pytest.mark.exhaustive
def test_a_resumed_run_computes_as_it_began(available, tmp_path, monkeypatch):
    for when, later in (("auto", "never"), ("never", "auto")):
        folder = tmp_path / when
        folder.mkdir()
        whole, part = (begun(tmp_path / f"{when}-whole", when), begun(folder, when))
        for _ in range(6):
            whole.advance()
        for _ in range(3):
            part.advance()
        state.save(folder, part.state())
        other = begun(folder, later)
        assert other.step == 3
        assert (other.package is None) == (part.package is None)
        for _ in range(3):
            other.advance()
        assert torch.equal(whole.parameters.values, other.parameters.values)


@pytest.mark.exhaustive
def test_a_run_whose_package_is_gone_starts_again(available, tmp_path, monkeypatch, capsys):
    part = begun(tmp_path, "auto")
    part.advance()
    state.save(tmp_path, part.state())
    monkeypatch.setenv(packages.VARIABLE, str(tmp_path / "others"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "nothing"))
    other = begun(tmp_path, "auto")
    assert other.step == 0
    assert other.package is None
    assert "this machine lacks the package" in capsys.readouterr().out


@pytest.mark.exhaustive
def test_a_machine_without_a_compiler_trains_without_a_package(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(packages.VARIABLE, str(tmp_path / "packages"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "nothing"))
    assert begun(tmp_path / "run", "build").package is None
    assert "note: computed without a compiled package" in capsys.readouterr().err
    monkeypatch.setattr(packages.subprocess, "Popen", None)  # the failure is noted, and not tried again
    assert begun(tmp_path / "run", "build").package is None
    assert "to try again, delete" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_build_that_is_stopped_is_tried_again(tmp_path, monkeypatch, capsys, number):
    """A note would keep later jobs from building, although nothing is wrong with the compiler."""
    monkeypatch.setenv(packages.VARIABLE, str(tmp_path / "packages"))

    class Stopped(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            time.sleep(0.5)  # it imports torch
            self.send_signal(number)

    monkeypatch.setattr(packages.subprocess, "Popen", Stopped)
    assert begun(tmp_path / "run", "build").package is None
    assert "compiling ended with status" in capsys.readouterr().err
    assert [path.suffix for path in (tmp_path / "packages").iterdir()] == [".lock"]


def test_a_job_that_is_to_end_ends_its_build_and_all_that_the_build_has_started(tmp_path, monkeypatch):
    """Somebody who interrupts the first minute of a workflow does not wait for the compiler."""
    monkeypatch.setenv(packages.VARIABLE, str(tmp_path / "packages"))
    stop, grandchild = Stop(), tmp_path / "pid"

    class Slow(subprocess.Popen):
        def __init__(self, command, **options):
            super().__init__(["sh", "-c", f"sleep 100 & echo $! > {grandchild}; wait"], **options)

    monkeypatch.setattr(packages.subprocess, "Popen", Slow)
    threading.Timer(1, stop.set).start()
    begun = time.monotonic()
    with pytest.raises(Interrupted):
        start(setup_with(), subset_of(N), N, 0, CPU, tmp_path / "run", compiled="build", stop=stop)
    assert time.monotonic() - begun < 20
    assert not alive(int(grandchild.read_text()))
    assert [path.suffix for path in (tmp_path / "packages").iterdir()] == [".lock"]  # no failure is noted
    with pytest.raises(Interrupted):  # a job that has waited for another one's build
        packages.build(step_of(setup_with()), stop=stop)


def alive(process: int) -> bool:
    """Whether a process exists that is not a zombie."""
    path = Path(f"/proc/{process}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("when", ["auto", "build"])
@pytest.mark.parametrize("folder", ["a file", "in a file", "no home"])
def test_a_folder_that_cannot_hold_packages_costs_only_speed(tmp_path, monkeypatch, when, folder):
    (tmp_path / "file").write_text("")
    if folder == "no home":
        monkeypatch.delenv(packages.VARIABLE)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path / "file"))
    else:
        monkeypatch.setenv(packages.VARIABLE, str(tmp_path / ("file" if folder == "a file" else "file/packages")))
    assert begun(tmp_path / "run", when).package is None


def test_a_folder_that_cannot_hold_packages_ends_a_run_that_must_have_one(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(packages.VARIABLE, str(tmp_path / "file"))
    with pytest.raises(
        PackageError,
        match=r"^execution\.compile = 'always': .*file: .*; EMM_PACKAGES must name a folder.*; use auto or never$",
    ):
        begun(tmp_path / "run", "always")


def test_a_damaged_package_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(packages.VARIABLE, str(tmp_path))
    recipe = step_of(setup_with())
    recipe.path.write_bytes(b"\x7fELF, but no library")
    with pytest.raises(PackageError, match=r"does not load \(.*\); delete it"):
        packages.load(recipe)
    assert begun(tmp_path / "run", "auto") is not None


def test_no_package_is_used_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv(packages.VARIABLE, str(tmp_path))
    assert begun(tmp_path / "run", "auto").package is None


def test_a_key_depends_on_everything_but_masks_and_label_counts(monkeypatch):
    def key(threads=THREADS, **changes):
        return step_of(setup_with(**changes), threads).key

    first = key()
    assert first == key(network={"skips": [1, 0]}) == key(training={"learning_rate": 0.5})
    others = [
        denoiser_of(setup_with()).key, key(training={"batch_size": 8}), key(threads=2), key(network={"channels": 16}),
        key(network={"dropout": 0.5}), key(diffusion={"preconditioning": "vp"}),
        key(training={"precision": "bfloat16"}),
    ]  # fmt: skip
    monkeypatch.setattr(packages, "machine", lambda device: "another")
    assert len({first, *others, key()}) == len(others) + 2
    assert denoiser_of(setup_with(network={"dropout": 0.5})).key == denoiser_of(setup_with()).key


def test_an_architecture_reads_back_from_its_text():
    for recipe in (step_of(setup_with(**DROPOUT)), denoiser_of(setup_with())):
        assert architecture.read(recipe.architecture.text()) == recipe.architecture


def test_wrong_results_are_noticed(monkeypatch):
    """A compiler that confuses two results is caught by the comparison that each package must pass."""
    recipe = denoiser_of(setup_with())
    function, inputs = packages.example(recipe, packages.network_of(recipe))
    monkeypatch.setattr(packages, "_loaded", lambda path, device: lambda tensors: [function(*tensors)])
    packages.check(recipe, Path(), function, inputs)
    monkeypatch.setattr(packages, "_loaded", lambda path, device: lambda tensors: [1.001 * function(*tensors)])
    with pytest.raises(PackageError, match=r"off by 0\.001, more than rounding"):
        packages.check(recipe, Path(), function, inputs)


@pytest.mark.parametrize("recipe_of", [step_of, denoiser_of])
def test_the_traced_graph_computes_the_function(recipe_of):
    recipe = recipe_of(setup_with(**DROPOUT))
    function, inputs = packages.example(recipe, packages.network_of(recipe))
    graph = packages.traced(recipe, function, inputs)
    torch.manual_seed(3)
    expected = function(*inputs)
    torch.manual_seed(3)
    values, outputs = (part if isinstance(part, tuple) else (part,) for part in (expected, graph(*inputs)))
    for value, output in zip(values, outputs, strict=True):
        assert (value - output).abs().max() <= 1e-5 * value.abs().max()


@pytest.mark.parametrize("architecture_of", ["ddpmpp", "ncsnpp", "dit"])
def test_a_denoiser_on_a_gpu_can_be_exported(architecture_of):
    """Shown without a GPU, by fake tensors: the strides of its group normalization differ from those of a CPU."""
    own = {"channels": 16} if architecture_of != "dit" else {"channels": 16, "heads": 4}
    recipe = denoiser_of(setup_with(network={"architecture": architecture_of, **own}))
    denoiser, recipe = packages.network_of(recipe), dataclasses.replace(recipe, device="cuda")
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in denoiser.modules():
            for store in (module._parameters, module._buffers):
                for name, tensor in store.items():
                    if tensor is not None:
                        fake = torch.empty_strided(tensor.shape, tensor.stride(), device="cuda", dtype=tensor.dtype)
                        store[name] = torch.nn.Parameter(fake) if isinstance(tensor, torch.nn.Parameter) else fake
        function, inputs = packages.example(recipe, denoiser)
        program = packages.exported(recipe, function, inputs).run_decompositions()
    assert {"aten.native_group_norm.default", "aten.native_layer_norm.default"} & {
        str(node.target) for node in program.graph.nodes
    }


@pytest.mark.exhaustive
def test_samples_of_a_package_have_the_same_grey_levels(available, tmp_path):
    """25 images at 16 a batch: the second batch is filled up."""
    from emmeter.diffusion.sampling import draws, generate, noise_levels
    from emmeter.training.functions import denoise_function
    from emmeter.training.optimizer import FlatParameters
    from emmeter.training.trainer import build

    setup = setup_with(**DROPOUT)
    torch.manual_seed(0)
    denoiser = build(setup, SHAPE, 0).eval().requires_grad_(False)
    for parameter in denoiser.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    parameters = FlatParameters(denoiser.network)
    package = packages.load(denoiser_of(setup))
    drawn, levels = draws(25, SHAPE, None, 0), noise_levels(setup.sampling)
    images = [
        generate(denoise_function(denoiser, parameters, used), drawn, levels, 16, CPU) for used in (None, package)
    ]
    assert (images[0].int() - images[1].int()).abs().max() <= 1
    assert images[0].float().std() > 10


@pytest.mark.exhaustive
def test_records_name_the_package(tmp_path, monkeypatch):
    """The stages with `--compile always` build packages, and write their keys into the records."""
    require_compiler()
    monkeypatch.setenv(packages.VARIABLE, str(tmp_path / "packages"))
    pipeline = Pipeline(tmp_path / "results")
    assert pipeline.call("subset") == 0
    for stage in ("train", "sample"):
        assert call(*pipeline.arguments(stage), "--compile", "always", "--threads", "1") == 0
    keys = {json.loads(pipeline.record(stage).read_text())["package"] for stage in ("train", "sample")}
    assert {path.stem for path in (tmp_path / "packages").glob("*.so")} == keys
