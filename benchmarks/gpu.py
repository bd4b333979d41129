"""A first hour on a GPU, in three parts: `stages`, `wide` and `tiny`.

Each part takes at most nine minutes, and needs torch, numpy, scipy, scikit-learn, safetensors and tqdm.  Neither
Snakemake nor FAISS must be installed.  Where pydantic is missing, four small wheels bring it: pydantic, pydantic-core,
annotated-types and typing-inspection.

``packages``  builds the compiled packages of all other parts, at once.
``stages``  every stage in every precision, with and without a compiled package; peaks; exactness of scoring; a killed
            and resumed training; the time that a save of a large state takes.
``wide``    the paper's network for 32x32 images at its batch of 512: training and sampling, eager and compiled, against
            the tuned baseline; where the time goes.
``tiny``    the default study's network: eager, compiled, and as a CUDA graph; ensembles of runs in one step; several
            processes on one GPU, and on all cores of the host.

Each row is printed, and appended to ``--rows``, as soon as it is measured.  A case that fails yields a row with the
error, and the others go on.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks import runs, score, timing, tuned
from benchmarks.ensemble import Ensemble
from benchmarks.record import Row, make
from emmeter.diffusion import operations
from emmeter.diffusion.precision import choose
from emmeter.diffusion.preconditioning import to_unit
from emmeter.diffusion.sampling import draws, generate, noise_levels
from emmeter.files.provenance import cores
from emmeter.machine.device import select
from emmeter.settings.sections import Setup
from emmeter.settings.types import Precision
from emmeter.stages.sample import sampler
from emmeter.training import architecture, packages, state
from emmeter.training.graphs import Graphed
from emmeter.training.trainer import Trainer, build, start

PARTS = ("packages", "stages", "wide", "tiny")
RUNS = (1, 8, 32, 64)  # of an ensemble
PROCESSES = (1, 4, 14)  # on one GPU
SHARING = (1, 14, 40)  # on one GPU, each with its step as a CUDA graph
COPIED = 2**30  # bytes that are copied to measure the memory's speed
WIDE = "32x32 width 128"
MPS_FOLDERS = ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY")
CHAIN_IMAGES = 40  # training images of the run of all stages


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="some cases of the parts, by name; by default all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: only to try the benchmark")
    parser.add_argument("--rows", type=Path, help="file to which each row is appended")
    parser.add_argument("--seconds", type=float, default=540, help="of a part; cases that begin later are left out")
    parser.add_argument("--quick", action="store_true", help="sizes that show only that everything runs")
    parser.add_argument("--worker", type=float, metavar="SECONDS", help=argparse.SUPPRESS)


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows of the requested parts."""
    if args.worker:
        worker(args)
        return
    device = select(args.device, 1)
    torch.backends.cudnn.benchmark = True  # as a skilled user has it, for all contestants
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = str(cores())  # nothing else runs here
    for part in args.part:
        begun = time.monotonic()
        for name, case in CASES[part].items():
            if args.cases and name not in args.cases:
                continue
            if time.monotonic() - begun > args.seconds:
                rows: Iterator[Row] = iter([_row(part, name, device, {"error": "no time left"})])
            else:
                rows = _guarded(part, name, case, args, device)
            for row in rows:
                if args.rows:
                    with open(args.rows, "a") as file:
                        file.write(row.json() + "\n")
                yield row


def _guarded(part: str, name: str, case: "Case", args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """The rows of a case; the last one holds the error, if the case fails."""
    clock = time.monotonic()
    try:
        with timing.compiling(True):
            yield from case(part, args, device)
    except Exception as error:  # one case must not cost the others their device time
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        details = {"error": f"{type(error).__name__}: {' '.join(lines)[:600]}"}
        yield _row(part, name, device, details | {"seconds": time.monotonic() - clock})
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _row(
    part: str, case: str, device: torch.device, details: dict[str, Any], units: str = "", ours: float | None = None,
    **others: Any,
) -> Row:  # fmt: skip
    return make(f"gpu {part}", case, units, ours, details=details, device=device.type, **others)


Case = Callable[[str, argparse.Namespace, torch.device], Iterator[Row]]


# ---- packages


def building(part: str, args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """Compile the packages of the other parts in processes side by side, and say how long each takes."""
    wide = runs.adjusted(_wide(args), training__precision="bfloat16", sampling__precision="bfloat16")
    recipes = {}
    for name, setup in (("tiny", runs.case(runs.TINY)), ("wide", wide)):
        shape = runs.shape(setup)
        wanted = architecture.of_step(setup, shape), architecture.of_denoiser(setup, shape, _images(args, setup))
        recipes |= {f"{name}, {each.kind}": packages.here(each, device) for each in wanted}
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = str(max(1, cores() // len(recipes)))

    def built(chosen: packages.Recipe) -> dict[str, Any]:
        clock = time.perf_counter()
        try:
            packages.build(chosen)
            return {"bytes": chosen.path.stat().st_size, "seconds": time.perf_counter() - clock}
        except packages.PackageError as error:
            return {"error": str(error)[:900], "seconds": time.perf_counter() - clock}

    with ThreadPoolExecutor(len(recipes)) as pool:
        futures = {pool.submit(built, chosen): name for name, chosen in recipes.items()}
        for future in as_completed(futures):
            details = future.result()
            yield _row(part, f"build {futures[future]}", device, details, "s", details["seconds"])


def _images(args: argparse.Namespace, setup: Setup) -> int:
    """Images that the sampler generates at once."""
    if args.quick:
        return 4
    return 250 if setup.data.resolution == 8 else 500


# ---- stages


def ceilings(part: str, args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """Peaks of arithmetic and memory."""
    source = torch.empty(COPIED, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    target.copy_(source)
    seconds = min(timing.seconds(lambda: target.copy_(source), device) for _ in range(10))
    yield _row(part, "copy", device, {"bytes": COPIED}, "TB/s", 2 * COPIED / seconds / 1e12)
    for precision in runs.precisions(device.type):
        yield _row(part, f"peak {precision}", device, {}, "TFLOP/s", timing.peak(device, precision) / 1e12)


def chain_setup(args: argparse.Namespace, precision: Precision, transformer: bool = False) -> Setup:
    """The default study's run, so short that it memorizes 40 digits; or with a transformer trained by flow matching."""
    base = runs.case(runs.TINY)
    if transformer:
        base = runs.adjusted(
            base, network__architecture="dit", diffusion__preconditioning="flow", network__channels=64,
            network__heads=4, network__blocks=4,
        )  # fmt: skip
    return runs.adjusted(
        base, training__precision=precision, sampling__precision=precision,
        training__duration="640 images" if args.quick else "9600 images",
        sampling__images=20 if args.quick else 250,
    )  # fmt: skip


def chain(
    compiled: packages.When, transformer: bool, part: str, args: argparse.Namespace, device: torch.device
) -> Iterator[Row]:
    """Every stage from the subset to the score, in every precision."""
    for precision in runs.precisions(device.type):
        with tempfile.TemporaryDirectory() as folder:
            details, rate = whole_run(chain_setup(args, precision, transformer), Path(folder), args.device, compiled)
        name = f"stages{', transformer' if transformer else ''}{'' if compiled == 'never' else ', package'}"
        yield _row(part, name, device, {"precision": precision} | details, "images/s", rate)


def whole_run(setup: Setup, folder: Path, device: str, compiled: packages.When) -> tuple[dict[str, Any], float]:
    """Run all stages in a folder; return the seconds of each and what came out, and the training's images/s."""
    from emmeter.stages import sample, subset
    from emmeter.stages import score as scoring
    from emmeter.stages import train as training

    common: dict[str, Any] = {"n": CHAIN_IMAGES, "replicate": 0}
    on: dict[str, Any] = {"device": device, "threads": 1, "compiled": compiled}
    paths = {stage: folder / stage for stage in ("subset", "train", "sample", "score")}
    for path in paths.values():
        path.mkdir()
    images, snapshots = paths["subset"] / "subset.npz", paths["train"] / "snapshots.safetensors"
    samples, log = paths["sample"] / "samples.npz", paths["train"] / "training.csv"
    records = [paths["train"] / "training.json", paths["sample"] / "sampling.json"]
    outputs = training.Outputs(snapshots, log, records[0])
    seconds: dict[str, Any] = {}

    def clocked(stage: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = work()
        seconds[f"{stage}, s"] = time.perf_counter() - begun
        return result

    clocked("subset", lambda: subset.subset(setup, output=images, **common))
    clocked("train", lambda: training.train(setup, images, outputs, state=folder / "state", **common, **on))
    clocked(
        "sample",
        lambda: sample.sample(setup, images, snapshots, output=samples, record=records[1], **common, **on),
    )
    neighbours, gallery = paths["score"] / "neighbours.npz", paths["score"] / "gallery.npz"
    result = clocked(
        "score",
        lambda: scoring.score(
            setup, images, samples, records, output=paths["score"] / "score.json", neighbours=neighbours,
            gallery=gallery, **common,
        ),
    )  # fmt: skip
    trained = json.loads(records[0].read_text())
    last = float(log.read_text().splitlines()[-1].split(",")[3])
    ratio = result["snapshots"][-1]["ratio"]
    more = {"package": trained["package"], "last loss": last, "memorization ratio": ratio}
    return seconds | more, trained["images_per_second"]


def scoring_exactly(part: str, args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """Nearest neighbours at the size of CIFAR-10, checked against exact integers, and against `torch.cdist`."""
    sizes = (200, 2000) if args.quick else (10_000, 50_000)
    given = SimpleNamespace(
        device=args.device, threads=cores(), queries=sizes[0], train=sizes[1], neighbours=2, rounds=3
    )
    yield from score.measure(given)  # type: ignore[arg-type]


def resumed(part: str, args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """A training that gets SIGTERM and resumes, against one that nobody disturbs."""
    from emmeter.stages import subset

    setup = runs.adjusted(
        chain_setup(args, "float32"), training__duration="3200 images" if args.quick else "12800 images"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subset.subset(setup, n=CHAIN_IMAGES, replicate=0, output=folder / "subset.npz")

        def run(into: str, after: str | None = None) -> tuple[int, float]:
            """Train, to the end or until the first line of progress; return the exit status and the seconds."""
            (folder / into).mkdir(exist_ok=True)
            outputs = {
                "snapshots": folder / into / "snapshots.safetensors", "log": folder / into / "training.csv",
                "record": folder / into / "training.json", "state": folder / f"{into}-state",
            }  # fmt: skip
            options = {
                "settings": setup.model_dump_json(), "key": "", "n": CHAIN_IMAGES, "replicate": 0,
                "subset": folder / "subset.npz", "device": args.device, "threads": 1, "compile": "never",
                "log-seconds": 0.2,
            }  # fmt: skip
            words = [word for name, value in (options | outputs).items() for word in (f"--{name}", str(value))]
            command = [sys.executable, "-m", "emmeter.stages.train", *words]
            clock = time.perf_counter()
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=_environment()
            ) as process:
                if after:
                    assert process.stdout is not None
                    process.stdout.readline()  # some steps are done
                    process.send_signal(signal.SIGTERM)
                process.communicate()
            return process.returncode, time.perf_counter() - clock

        _, whole = run("whole")
        status, _ = run("parts", "SIGTERM")
        _, second = run("parts")
        losses = [
            (folder / into / "training.csv").read_text().splitlines()[-1].split(",")[3] for into in ("whole", "parts")
        ]
        details = {
            "status at SIGTERM": status, "whole, s": whole, "after resuming, s": second,
            "resumed at image": json.loads((folder / "parts/training.json").read_text())["resumed_at_image"],
            "last loss, whole": float(losses[0]), "last loss, resumed": float(losses[1]),
        }  # fmt: skip
        yield _row(part, "killed and resumed", device, details)


def saving(part: str, args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """The save of the state of the paper's network."""
    trainer = _trainer(_wide(args), device)
    with tempfile.TemporaryDirectory() as folder:
        seconds = [timing.seconds(lambda: state.save(Path(folder), trainer.state()), device) for _ in range(3)]
        size = (Path(folder) / state.STATE).stat().st_size
    yield _row(part, "save of the state", device, {"MB": size / 1e6}, "s", statistics.median(seconds))


# ---- wide


def _wide(args: argparse.Namespace) -> Setup:
    setup = runs.case(WIDE)
    if not args.quick:
        return setup
    return runs.adjusted(setup, network__channels=16, network__multipliers=[1, 2], network__blocks=1,
                         training__batch_size=4, sampling__steps=3)  # fmt: skip


def _trainer(setup: Setup, device: torch.device, compiled: packages.When = "never") -> Trainer:
    """A trainer of random images; its steps are no CUDA graphs, unlike those of `start`."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = start(setup, runs.random_subset(setup), runs.IMAGES, 0, device, Path(folder), compiled=compiled)
    if isinstance(trainer.update, Graphed):
        trainer.update = trainer.update.update  # type: ignore[method-assign]
    return trainer


def _several(advance: Callable[[], Any], precision: Precision | None, steps: int) -> None:
    if precision:
        choose(precision)
    for _ in range(steps):
        advance()


Makers = Mapping[str, Callable[[], Callable[[], Any]]]


def compete(
    part: str, args: argparse.Namespace, device: torch.device, makers: Makers, units: str, amount: float,
    seconds: float, details: dict[str, Any], flops: float = 0.0,
) -> Iterator[Row]:  # fmt: skip
    """Time each contestant alone as soon as it is made, then all in turns; one that fails yields its error.

    Args:
        makers: by name, functions that make a contestant: a call that does `amount` of work.
        seconds: of one timing.
        flops: operations of a call, for the share of the peak.
    """
    work: dict[str, Callable[[], Any]] = {}
    calls: dict[str, int] = {}
    peak = timing.peak(device, "bfloat16") if flops else None

    def row(name: str, each: timing.Times, more: dict[str, Any], ratios: dict[str, timing.Ratio]) -> Row:
        median = statistics.median(each.wall)
        share = {"share of bfloat16 peak": flops / median / peak} if peak else {}
        measured = {"ms": 1000 * median} | share | more
        return _row(part, name, device, details | measured, units, amount / median, ratios=ratios)

    for name, maker in makers.items():
        clock = time.perf_counter()
        try:
            call = maker()
            if not timing.warm_up(call, device):
                raise torch.OutOfMemoryError("does not fit")
            more = {"first calls, s": time.perf_counter() - clock, "memory, bytes": timing.peak_memory(call, device)}
            calls[name] = timing.repeats(call, seconds, device)
            alone = timing.alternate({name: partial(_several, call, None, calls[name])}, 1, device)[name]
            yield row(f"{name} (alone)", alone.over(calls[name]), more, {})
            work[name] = call
        except Exception as error:
            text = " ".join(str(error).split())[:500]
            yield _row(part, name, device, details | {"error": f"{type(error).__name__}: {text}"})
    turns = {name: partial(_several, call, None, calls[name]) for name, call in work.items()}
    taken = timing.alternate(turns, 1 if args.quick else timing.ROUNDS, device)
    each = {name: taken[name].over(calls[name]) for name in work}
    for name in work:
        ratios = {other: timing.ratio(each[other].wall, each[name].wall) for other in work if other != name}
        yield row(name, each[name], {}, ratios)


def wide_training(part: str, args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """Training steps of the paper's network: bfloat16 and TF32, eager and compiled, and tuned."""
    setup = _wide(args)
    batch = setup.training.batch_size
    flops = 3.0 * operations.planned(setup.network, runs.shape(setup))[0] * batch

    def ours(precision: Precision, compiled: packages.When) -> Callable[[], Any]:
        trainer = _trainer(runs.adjusted(setup, training__precision=precision), device, compiled)
        return partial(_several, trainer.advance, precision, 1)

    def baseline(mode: tuned.Mode) -> Callable[[], Any]:
        training = tuned.Training(setup, runs.random_subset(setup), device, mode)

        def advance() -> None:
            tuned.arithmetic()
            training.advance()

        return advance

    makers: dict[str, Callable[[], Callable[[], Any]]] = {
        "train, eager bfloat16": partial(ours, "bfloat16", "never"),
        "train, package bfloat16": partial(ours, "bfloat16", "always"),
        "train, tuned": partial(baseline, "default"),
    }
    if device.type == "cuda":
        makers["train, eager tf32"] = partial(ours, "tf32", "never")
    yield from compete(part, args, device, makers, "images/s", batch, 0.8, {"batch": batch}, flops)


def wide_sampling(part: str, args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """The sampler of the paper's network, at the batch of the configuration."""
    setup = runs.adjusted(_wide(args), sampling__precision="bfloat16")
    yield from sampling(part, args, device, setup, _images(args, setup), 3)


def sampling(
    part: str, args: argparse.Namespace, device: torch.device, setup: Setup, batch: int, steps: int
) -> Iterator[Row]:
    """The first `steps` steps of a sampler, eager and by a package."""
    drawn = draws(batch, runs.shape(setup), None, 0)

    def ours(compiled: packages.When) -> Callable[[], Any]:
        torch.manual_seed(0)
        _, denoise, _ = sampler(setup, runs.shape(setup), 0, batch, device, compiled)
        levels = noise_levels(setup.sampling)[-steps - 1 :]
        images.append(generate(denoise, drawn, levels, batch, device))
        return lambda: generate(denoise, drawn, levels, batch, device)

    images: list[torch.Tensor] = []
    makers = {"sample, eager": partial(ours, "never"), "sample, package": partial(ours, "always")}
    details: dict[str, Any] = {"batch": batch, "steps": steps, "precision": setup.sampling.precision}
    rows = compete(part, args, device, makers, "images/s", batch, 0.5, details)
    for row in rows:
        if len(images) == len(makers):
            difference = (images[0].int() - images[1].int()).abs().max().item()
            row.details["largest difference of packages, grey levels"] = difference
        yield row


def profile(part: str, args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """Where the GPU's time goes in an eager step of the paper's network in bfloat16."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    for compiled in ("never", "auto"):  # auto: the package that the case before has built
        trainer = _trainer(runs.adjusted(_wide(args), training__precision="bfloat16"), device, compiled)
        if compiled == "auto" and trainer.package is None:
            return
        _several(trainer.advance, "bfloat16", 2)
        with profiler(activities=list({activity, ProfilerActivity.CPU})) as recorded:
            _several(trainer.advance, "bfloat16", 2)
            timing.synchronize(device)
        times = {
            event.key: event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
            for event in recorded.key_averages()
        }
        total = sum(times.values()) or 1
        slowest = sorted(times.items(), key=lambda item: -item[1])[:25]
        details = {name[:90]: value / total for name, value in slowest}
        yield _row(part, f"profile, {'package' if trainer.package else 'eager'}", device, details, "ms", total / 2000)


# ---- tiny


def tiny_training(part: str, args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """Training steps of the default study's network, launched in five ways."""
    setup = runs.case(runs.TINY)
    batch = setup.training.batch_size

    def ours(compiled: packages.When, graph: bool) -> Callable[[], Any]:
        trainer = _trainer(setup, device, compiled)
        if graph:
            trainer.update = Graphed(trainer.update)  # type: ignore[method-assign]
        return partial(_several, trainer.advance, "float32", 1)

    def baseline(mode: tuned.Mode) -> Callable[[], Any]:
        return tuned.Training(setup, runs.random_subset(setup), device, mode).advance

    makers: dict[str, Callable[[], Callable[[], Any]]] = {"train, eager": partial(ours, "never", False)}
    if device.type == "cuda":
        makers["train, eager in a graph"] = partial(ours, "never", True)
    makers["train, package"] = partial(ours, "always", False)
    if device.type == "cuda":
        makers["train, package in a graph"] = partial(ours, "always", True)
        makers["train, tuned with graphs"] = partial(baseline, "reduce-overhead")
    makers["train, tuned"] = partial(baseline, "default")
    yield from compete(part, args, device, makers, "images/s", batch, 0.3, {"batch": batch})


def tiny_sampling(part: str, args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """The sampler of the default study's network."""
    setup = runs.case(runs.TINY)
    yield from sampling(part, args, device, setup, _images(args, setup), setup.sampling.steps)


def graph_is_the_step(part: str, args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """Weights after some steps with and without a CUDA graph, with dropout, whose masks must be the same."""
    setup = runs.adjusted(runs.case(runs.TINY), network__dropout=0.2, training__lr_ramp="0 images")
    ends, losses = [], []
    for graph in (False, True):
        trainer = _trainer(setup, device)
        choose("float32")
        if graph and device.type == "cuda":
            trainer.update = Graphed(trainer.update)  # type: ignore[method-assign]
        losses.append([trainer.advance().item() for _ in range(20)])
        ends.append(trainer.parameters.values.clone())
    details = {
        "largest difference of weights": (ends[0] - ends[1]).abs().max().item(),
        "largest weight": ends[0].abs().max().item(),
        "last loss, eager": losses[0][-1],
        "last loss, graph": losses[1][-1],
    }
    yield _row(part, "graph against eager, 20 steps with dropout", device, details)


def ensembles(part: str, args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """Ensembles of runs in one step; their gradients against those of single runs."""
    setup = runs.adjusted(runs.case(runs.TINY), network__dropout=0.0)
    batch, shape = setup.training.batch_size, runs.shape(setup)
    pixels = to_unit(torch.from_numpy(runs.random_subset(setup).images)).to(device)
    choose("float32")
    for count in RUNS[:2] if args.quick else RUNS:
        torch.manual_seed(0)
        denoiser = build(setup, shape, 0).to(device).train()
        together = Ensemble(denoiser, count, batch, shape, setup.training.learning_rate)
        together.draw_batch(pixels)
        clock = time.perf_counter()
        together.update()
        timing.synchronize(device)
        first = time.perf_counter() - clock
        for graph in (False, True) if device.type == "cuda" else (False,):
            step: Callable[[], Any] = together.update
            if graph:
                step = _graph(together.update)

            def advance(step: Callable[[], Any] = step, together: Ensemble = together) -> None:
                together.draw_batch(pixels)
                step()

            timing.warm_up(advance, device)
            calls = timing.repeats(advance, 0.1 if args.quick else 0.4, device)
            taken = [timing.seconds(partial(_several, advance, None, calls), device) / calls for _ in range(5)]
            median = statistics.median(taken)
            details = {
                "runs": count, "ms": 1000 * median, "quartiles, ms": [1000 * value for value in sorted(taken)[1:4:2]],
                "first call, s": first, "mean loss": together.losses.mean().item(),
                "memory, bytes": timing.peak_memory(advance, device),
            }  # fmt: skip
            name = f"ensemble of {count}{' in a graph' if graph else ''}"
            yield _row(part, name, device, details, "images/s", count * batch / median)


def _graph(update: Callable[[], None]) -> Callable[[], None]:
    """Capture an update without inputs."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            update()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update()
    return graph.replay


def processes(part: str, args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """Several processes that train the default study's network at once, on one GPU."""
    for count in PROCESSES[:1] if args.quick else PROCESSES:
        yield from together(part, args, args.device, count, "never")


def sharing(part: str, args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """The same with each step as a CUDA graph, as the workflow trains; then under MPS, where its daemon is installed.

    Without MPS the GPU gives the processes its time in turns, and kernels of two processes never run at once.
    """
    for count in SHARING[:1] if args.quick else SHARING[:2]:
        yield from together(part, args, args.device, count, "never", graph=True)
    if not shutil.which("nvidia-cuda-mps-control"):
        yield _row(part, "processes under MPS", device, {"error": "no nvidia-cuda-mps-control on the PATH"})
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= dict.fromkeys(MPS_FOLDERS, folder)
        subprocess.run(["nvidia-cuda-mps-control", "-d"], check=True)
        try:
            for count in SHARING[:1] if args.quick else SHARING:
                yield from together(part, args, args.device, count, "never", graph=True, note=" under MPS")
        finally:
            subprocess.run(["nvidia-cuda-mps-control"], input="quit\n", text=True, timeout=60, check=False)
            for name in MPS_FOLDERS:
                del os.environ[name]


def host(part: str, args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """The same on the cores of the host, one process per core, eager and by a package."""
    for compiled in ("never", "always"):
        if compiled == "always":
            _trainer(runs.case(runs.TINY), torch.device("cpu"), "always")  # builds it, for all processes
        for count in (1,) if args.quick else (1, cores()):
            yield from together(part, args, "cpu", count, compiled)


def together(
    part: str, args: argparse.Namespace, device: str, count: int, compiled: packages.When, graph: bool = False,
    note: str = "",
) -> Iterator[Row]:  # fmt: skip
    """Start processes of `worker`, and add up their speeds."""
    seconds = 1.0 if args.quick else 6.0
    command = [sys.executable, "-m", "benchmarks", "gpu", "--worker", str(seconds), "--device", device]
    environment = _environment() | {
        "EMM_WORKER_COMPILE": compiled, "EMM_WORKER_GRAPH": "1" if graph else "", "EMM_WORKER_START": str(time.time()),
    }  # fmt: skip
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "env": environment}
    children = [subprocess.Popen(command, **pipes) for _ in range(count)]  # type: ignore[call-overload]
    results = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
    details = {
        "processes": count, "compile": compiled, "seconds to the first step": max(r["start"] for r in results),
        "slowest process, images/s": min(r["rate"] for r in results),
    }  # fmt: skip
    way = ", package" if compiled == "always" else ", graphs" if graph else ""
    name = f"{count} processes on the {'GPU' if device == 'cuda' else 'host'}{way}{note}"
    yield _row(part, name, torch.device(args.device), details, "images/s", sum(r["rate"] for r in results))


def worker(args: argparse.Namespace) -> None:
    """Train for some seconds, and print images/s and the seconds from the start of the process to the first step."""
    device = select(args.device, 1)
    torch.backends.cudnn.benchmark = True
    setup = runs.case(runs.TINY)
    trainer = _trainer(setup, device, os.environ["EMM_WORKER_COMPILE"])  # type: ignore[arg-type]
    if os.environ["EMM_WORKER_GRAPH"] and device.type == "cuda":
        trainer.update = Graphed(trainer.update)  # type: ignore[method-assign]
    trainer.advance().item()
    start_seconds = time.time() - float(os.environ["EMM_WORKER_START"])
    for _ in range(10):
        trainer.advance()
    timing.synchronize(device)
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < args.worker:
        for _ in range(10):
            trainer.advance()
        timing.synchronize(device)
        steps += 10
    rate = steps * setup.training.batch_size / (time.perf_counter() - begun)
    print(json.dumps({"rate": rate, "start": start_seconds}), flush=True)


def _environment() -> dict[str, str]:
    """The environment of a child: one thread, and this project's modules."""
    folders = [str(runs.ROOT), str(runs.ROOT / "workflow"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(folders)}


CASES: dict[str, dict[str, Case]] = {
    "packages": {"building": building},
    "stages": {
        "ceilings": ceilings,
        "stages": partial(chain, "never", False),
        "transformer": partial(chain, "never", True),
        "scoring": scoring_exactly,
        "killed and resumed": resumed,
        "saving": saving,
        "stages, package": partial(chain, "always", False),
    },
    "wide": {"training": wide_training, "sampling": wide_sampling, "profile": profile},
    "tiny": {
        "graph against eager": graph_is_the_step,
        "training": tiny_training,
        "sampling": tiny_sampling,
        "ensembles": ensembles,
        "processes": processes,
        "sharing": sharing,
        "host": host,
    },
}
