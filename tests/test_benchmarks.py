"""Benchmarks: the plain baseline computes what the project does, rows can be read back, RESULTS.md keeps others'."""

import argparse
import importlib
import itertools
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import (
    audit,
    dag,
    end_to_end,
    ensemble,
    fresh,
    gpu,
    plain,
    project,
    record,
    results,
    runs,
    sample,
    scaling,
    score,
    script,
    search,
    timing,
    train,
    tuned,
)
from benchmarks.__main__ import NAMES, parser
from emmeter.diffusion import functional
from emmeter.diffusion.preconditioning import to_unit
from emmeter.diffusion.sampling import draws, generate, noise_levels
from emmeter.errors import StageError
from emmeter.measure.criterion import Neighbours, neighbours
from emmeter.measure.estimate import fit_line
from emmeter.measure.proximity import Blocks, Search, Training
from emmeter.settings.configuration import load, read
from emmeter.settings.keys import key
from emmeter.training.batches import batches
from emmeter.training.seeds import derive
from emmeter.training.trainer import build, start

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def small(**changes):
    """The default network, narrower, at a learning rate from the first step on."""
    settings = {
        "network__channels": 8, "network__dropout": 0.0, "training__batch_size": 6, "training__lr_ramp": "0 images",
        "training__ema_ramp": "0 images", "training__ema_decays": [0.9, 0.5], "training__duration": "60 images",
    }  # fmt: skip
    return runs.adjusted(runs.case(runs.TINY), **{**settings, **changes})


def labelled(run, count=20, labels=3):
    subset = runs.random_subset(run, count)
    return replace(subset, labels=np.arange(count) % labels, label_count=labels)


def shaken(denoiser, seed=0):
    """The denoiser with all weights moved, so that every layer matters (some start near zero)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return denoiser


NETWORKS = {
    "tiny": {},
    "three levels": {"network__multipliers": [1, 2, 2], "network__blocks": 2, "network__attention": [8, 4]},
    "vp": {"diffusion__preconditioning": "vp", "network__embedding": "fourier"},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_plain_network_equals_ours(name):
    run = small(**NETWORKS[name])
    shape = runs.shape(run)
    pair = []
    for make in (plain.denoiser, build):
        torch.manual_seed(1)
        pair.append(shaken(make(run, shape, 3)).eval())
    assert list(pair[0].network.state_dict()) == list(pair[1].network.state_dict())
    assert not any(isinstance(layer, type(build(run, shape, 3).network.decoder[0][0])) for layer in pair[0].modules())
    generator = torch.Generator().manual_seed(2)
    x, sigma = torch.randn(5, *shape, generator=generator), torch.rand(5, generator=generator) + 0.1
    labels = torch.tensor([0, 1, 2, 1, 0])
    first, second = (denoiser(x, sigma, labels) for denoiser in pair)
    assert second.std() > 0.1
    assert torch.allclose(first, second, rtol=1e-4, atol=1e-5)


def test_plain_network_starts_with_the_weights_of_ours():
    run = small()
    states = []
    for make in (plain.denoiser, build):
        torch.manual_seed(3)
        states.append(make(run, runs.shape(run), 0).network.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_plain_training_steps_equal_ours(tmp_path, weight_decay):
    """Three steps of Adam from the same weights on the same batches."""
    setup = small(training__weight_decay=weight_decay)
    subset = labelled(setup)
    baseline = plain.Training(setup, subset, CPU)
    ours = start(setup, subset, len(subset.images), 0, CPU, tmp_path)
    shaken(baseline.denoiser)
    with torch.no_grad():
        state = baseline.denoiser.network.state_dict()
        for name, parameter in ours.denoiser.network.named_parameters():
            parameter.copy_(state[name])
        for average in baseline.averages:
            average.load_state_dict(state)
        for average in ours.averages:
            average.copy_(ours.parameters.values)
    before = {name: parameter.clone() for name, parameter in baseline.denoiser.network.named_parameters()}
    for step in range(3):
        loss = ours.advance()
        # A step's images and random numbers are those that `emmeter.training.trainer` draws.
        index = next(batches(ours.n, setup.training.batch_size, ours.seed, step))
        torch.manual_seed(derive(ours.seed, "step", step))
        draw = torch.randn(len(index))
        images = to_unit(torch.from_numpy(subset.images)[index])
        noise = torch.randn_like(images)
        assert baseline.update(images, torch.from_numpy(subset.labels)[index], draw, noise) == pytest.approx(
            loss.item(), 1e-4
        )
    agree(before, baseline.denoiser.network, dict(ours.denoiser.network.named_parameters()), setup)
    for mean, flat in zip(baseline.averages, ours.averages, strict=True):
        agree(before, mean, ours.parameters.view(flat), setup)


def agree(before, network, theirs, setup):
    """Both sides have moved from `before` alike.

    Adam divides a gradient by its own size, so that rounding decides where a weight goes whose gradient is nearly
    zero.  Of the keys' biases in attention it is exactly zero (a softmax does not see them): they are left out.  Of
    the other weights 99 % must agree to a hundredth of the learning rate, and all together to 1 % of their movement.
    """
    moved, expected = [], []
    for name, parameter in network.named_parameters():
        for side, value in ((moved, parameter), (expected, theirs[name])):
            change = (value - before[name]).detach()
            side.append((change.view(3, -1)[[0, 2]] if name.endswith("qkv.bias") else change).flatten())
    moved, expected = torch.cat(moved), torch.cat(expected)
    assert expected.abs().max() > setup.training.learning_rate / 10
    assert ((moved - expected).abs() > 0.01 * setup.training.learning_rate).float().mean() < 0.01
    assert (moved - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize("changes", [{}, {"training__weight_decay": 0.01}, NETWORKS["vp"], NETWORKS["three levels"]])
def test_tuned_training_steps_equal_plain(changes):
    setup = small(**changes)
    subset = labelled(setup)
    torch.manual_seed(1)
    baseline = plain.Training(setup, subset, CPU)
    torch.manual_seed(1)
    competent = tuned.Training(setup, subset, CPU)
    state = shaken(baseline.denoiser).state_dict()
    competent.denoiser.load_state_dict(state)
    for average in baseline.averages:
        average.load_state_dict(baseline.denoiser.network.state_dict())
    for average in competent.averages:
        for mean, parameter in zip(average, competent.parameters, strict=True):
            mean.copy_(parameter.detach())
    before = {name: parameter.clone() for name, parameter in baseline.denoiser.network.named_parameters()}
    for step in range(3):
        torch.manual_seed(step)
        index = torch.randint(len(subset.images), (setup.training.batch_size,))
        images, labels = competent.images[index], torch.from_numpy(subset.labels)[index]
        draw, noise = torch.rand(len(index)), torch.randn_like(images)
        loss = baseline.update(images, labels, draw, noise)
        assert competent.update(images, labels, draw, noise).item() == pytest.approx(loss, 1e-4)
    names = list(before)
    agree(before, baseline.denoiser.network, dict(competent.denoiser.network.named_parameters()), setup)
    for mean, average in zip(baseline.averages, competent.averages, strict=True):
        agree(before, mean, dict(zip(names, average, strict=True)), setup)


def test_tuned_batches_go_through_the_subset_epoch_by_epoch():
    run = small(training__batch_size=4)
    training = tuned.Training(run, runs.random_subset(run, 10), CPU)
    indices = torch.cat([training._indices() for _ in range(5)]).tolist()
    assert sorted(indices[:10]) == sorted(indices[10:]) == list(range(10))
    before = [parameter.detach().clone() for parameter in training.parameters]
    assert math.isfinite(training.advance().item()) and training.step == 1
    assert any(not torch.equal(old, new) for old, new in zip(before, training.parameters, strict=True))


def test_tuned_network_is_fused_and_channels_last():
    run = small()
    network = tuned.denoiser(run, runs.shape(run), 0, CPU).network
    attentions = [layer for layer in network.modules() if isinstance(layer, plain.Attention)]
    assert attentions and all(isinstance(layer, tuned.Attention) for layer in attentions)
    assert network.encoder[0][0].conv0.weight.is_contiguous(memory_format=torch.channels_last)
    fresh = tuned.Training(run, runs.random_subset(run), CPU)
    assert fresh.optimizer.defaults["fused"]


def test_plain_loader_goes_through_the_subset_epoch_by_epoch():
    run = small(training__batch_size=5)
    subset = runs.random_subset(run, 10)
    training = plain.Training(run, subset, CPU)
    batches = list(itertools.islice(training.batches, 4))
    known = {image.tobytes() for image in to_unit(torch.from_numpy(subset.images)).numpy()}
    for pair in (batches[:2], batches[2:]):
        assert {image.numpy().tobytes() for images, _ in pair for image in images} == known
    assert math.isfinite(training.advance())


def test_plain_and_tuned_samples_equal_ours():
    setup = small(sampling__images=7, sampling__steps=4)
    shape, labels = runs.shape(setup), torch.tensor([0, 2])
    torch.manual_seed(4)
    ours = shaken(build(setup, shape, 3)).eval()
    torch.manual_seed(4)
    baseline = shaken(plain.denoiser(setup, shape, 3)).eval()
    levels = noise_levels(setup.sampling, ours.kind.sigma_min, ours.kind.sigma_max)
    with torch.no_grad():
        expected = generate(ours, draws(7, shape, labels, 0), levels, 7, CPU)
    torch.manual_seed(4)
    competent = shaken(tuned.denoiser(setup, shape, 3, CPU)).eval()
    assert expected.float().std() > 10
    for images in (
        plain.sample(baseline, setup, shape, labels, 3, CPU),
        plain.sample(competent, setup, shape, labels, 3, CPU),
    ):
        assert (images.int() - expected.int()).abs().max() <= 1  # grey level


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("network__architecture", "ncsnpp"),
        ("training__optimizer", "sgd"),
        ("training__flip", 0.5),
        ("network__skips", [1, 0, 1, 1]),
    ],
)
def test_baselines_refuse_what_they_do_not_have(key, value):
    for baseline in (plain.denoiser, partial(tuned.denoiser, device=CPU)):
        with pytest.raises(StageError, match=key.replace("__", ".")):
            baseline(small(**{key: value}), (1, 8, 8), 0)


def test_plain_neighbours_equal_ours_on_separate_images():
    generated, train = score.images(40, 200)
    found = neighbours(generated, train, np.arange(200), 2)
    distances, indices = plain.nearest(torch.from_numpy(generated), torch.from_numpy(train), 2, CPU)
    assert np.array_equal(indices[:, 0].numpy(), found.indices[:, 0])
    # float32 loses the digits of a near copy: 3,072 squares of up to 255^2 cancel.
    assert np.allclose(distances.numpy(), np.sqrt(found.squared), atol=10)


def test_score_reference_is_exact_and_notices_a_wrong_neighbour():
    generated, train = score.images(30, 50)
    exact = ((generated[:, None].astype(int) - train[None].astype(int)) ** 2).sum((2, 3, 4))
    assert np.array_equal(score.squared_distances(generated, train), exact)
    found = neighbours(generated, train, np.arange(50), 2)
    score.check(found, generated, train)
    for wrong in (
        Neighbours(found.indices[:, ::-1], found.squared, found.copies),
        Neighbours(found.indices, found.squared + 1, found.copies),
    ):
        with pytest.raises(StageError, match="exact reference"):
            score.check(wrong, generated, train)


@pytest.mark.parametrize("noise", [False, True])
def test_the_search_of_an_audit_is_timed_and_checked_in_memory_and_in_a_file(noise):
    command = ["audit", "--queries", "12", "--train", "40", "--side", "8", "--rounds", "1", "--threads", "1"]
    for memory in ("1000000", "3000"):
        args = parser({"audit": audit}).parse_args([*command, "--memory", memory, *(["--noise"] if noise else [])])
        (measured,) = audit.measure(args)
        assert measured.case == "12 x 40 x 192" and measured.ours and measured.plain


def test_images_like_photographs_vary_mostly_along_few_directions():
    images = audit.pictures(np.random.default_rng(0), 1200, 16, noise=False).reshape(1200, -1)
    spectrum = np.linalg.svd((images - images.mean(axis=0)).astype(np.float32), compute_uv=False) ** 2
    assert spectrum[:76].sum() > 0.9 * spectrum.sum()  # a tenth of all directions


def test_a_wrong_neighbour_of_an_audit_is_noticed():
    args = parser({"audit": audit}).parse_args(["audit", "--queries", "9", "--train", "30", "--side", "8"])
    generated, train = audit.stores(args, Path())
    alone = np.arange(30)
    nearest = Search(Training(train, alone, alone), Blocks(9, 30)).nearest(generated)
    audit.check(nearest, generated, train)
    with pytest.raises(StageError, match="exact reference"):
        audit.check(replace(nearest, first=nearest.second), generated, train)


def test_contestants_take_turns_in_both_orders():
    calls = []
    taken = timing.alternate({name: (lambda name=name: calls.append(name)) for name in "abc"}, 3, CPU)
    assert "".join(calls) == "abccbaabc"
    assert {name: len(times.wall) for name, times in taken.items()} == {"a": 3, "b": 3, "c": 3}


def test_ratio_has_the_quartiles_of_the_rounds():
    assert timing.ratio([6.0, 3.0, 8.0, 5.0, 1.0], [2.0, 3.0, 2.0, 1.0, 0.5]) == timing.Ratio(3.0, 2.0, 4.0)
    assert timing.ratio([6.0], [2.0]) == timing.Ratio(3.0, 3.0, 3.0)


def test_ratios_are_in_wall_time_and_on_a_cpu_in_processor_time_too():
    ours, plainly = timing.Times([1.0, 2.0], [4.0, 4.0]), timing.Times([3.0, 6.0], [8.0, 8.0])
    both = timing.ratios(ours, {"plain": plainly}, CPU)
    assert both == {"plain": timing.Ratio(3.0, 3.0, 3.0), "plain CPU": timing.Ratio(2.0, 2.0, 2.0)}
    assert list(timing.ratios(ours, {"plain": plainly}, torch.device("cuda"))) == ["plain"]
    assert ours.over(4) == timing.Times([0.25, 0.5], [1.0, 1.0])


def test_waiting_takes_wall_time_but_no_processor_time():
    taken = timing.alternate({"wait": lambda: time.sleep(0.2)}, 1, CPU)["wait"]
    assert taken.wall[0] > 0.19 and taken.processor[0] < 0.1


def test_work_is_called_untimed_before_it_is_timed():
    calls = []
    assert timing.warm_up(lambda: calls.append(1), CPU) and len(calls) == 1
    assert timing.UNTIMED["cuda"] >= 3  # compilation, choice of algorithms, capture of a graph


def test_work_without_enough_memory_is_left_out():
    def fails():
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert not timing.warm_up(fails, CPU)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this system does not reset peaks")
def test_peak_memory_is_that_of_the_work():
    size = 200_000_000
    base = timing.peak_memory(lambda: None, CPU)
    high = timing.peak_memory(lambda: np.ones(size, np.uint8), CPU)
    again = timing.peak_memory(lambda: None, CPU)
    assert high > base + 0.9 * size and again < base + 0.5 * size


def test_each_case_compiles_from_the_start():
    from torch import _dynamo

    compile = partial(torch.compile, dynamic=False, backend="eager")
    for _ in range(2):  # each case reaches the limit, but not beyond
        with timing.compiling(True):
            for _ in range(_dynamo.config.recompile_limit):
                network = torch.nn.Linear(1, 1)
                compile(network)(torch.ones(1, 1))
    doubled = compile(lambda x: 2 * x)
    with timing.compiling(True):
        for size in range(2, _dynamo.config.recompile_limit + 2):
            doubled(torch.ones(size))
        with pytest.raises(_dynamo.exc.FailOnRecompileLimitHit):
            doubled(torch.ones(100))


def command(*arguments):
    """The rows that ``python -m benchmarks`` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [record.read(line) for line in done.stdout.splitlines()]


@pytest.mark.exhaustive
def test_train_prints_a_row_for_each_case_and_precision():
    rows = command(
        "train", "--cases", "tiny", "--batch", "4", "--seconds", "0.01", "--rounds", "2",
        "--device", "cpu", "--starts", "1",
    )  # fmt: skip
    parts = ("tiny: start", "tiny: memory")
    assert [(row.case, row.details["precision"]) for row in rows] == [
        *((part, precision) for precision in ("float32", "bfloat16") for part in parts),
        ("tiny", "float32"),
        ("tiny", "bfloat16"),
    ]
    begin, memory, row = rows[0], rows[1], rows[4]
    assert list(begin.ratios) == ["plain", "tuned"] and begin.units == "s"
    for value in (begin.ours, begin.plain, begin.tuned):
        assert value > 0.2  # importing torch takes longer
    if os.access("/proc/self/clear_refs", os.W_OK):
        assert all(value > 50 for value in (memory.ours, memory.plain, memory.tuned)) and memory.units == "MB"
    assert row.hardware.startswith("CPU: ") and row.versions["torch"] == torch.__version__.split("+")[0]
    assert list(row.ratios) == ["plain", "plain CPU", "tuned", "tuned CPU"]
    assert all(0 < low <= median <= high for median, low, high in row.ratios.values())
    assert row.ours > 0 and row.plain > 0 and row.tuned > 0 and row.units == "images/s"
    assert 0 < row.details["share of peak"] < 1
    assert record.read(row.json()) == row


@pytest.mark.parametrize("arguments", [["fly"], ["train", "--cases", "huge"], ["train", "--precision", "float3"]])
def test_a_wrong_command_line_ends_with_what_is_allowed(arguments, capsys):
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in NAMES}
    with pytest.raises(SystemExit) as end:
        parser(modules).parse_args(arguments)
    assert end.value.code == 2
    assert "invalid choice" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", NAMES)
def test_counts_must_be_positive(name, capsys):
    modules = {one: importlib.import_module(f"benchmarks.{one}") for one in NAMES}
    option = {"dag": "--studies", "end_to_end": "--cores", "search": "--arms"}.get(name, "--rounds")
    with pytest.raises(SystemExit) as end:
        parser(modules).parse_args([name, option, "-3"])
    assert end.value.code == 2
    assert f"argument {option}: must be a whole number from 1 on" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.exhaustive
def test_sampling_takes_more_of_a_run_the_slower_it_is():
    args = argparse.Namespace(
        device="cpu", cases=["tiny"], precision=["float32"], images=2, steps=2, batch=2, threads=1, rounds=1,
        starts=0, compile=False,
    )  # fmt: skip
    rate, share = sample.measure(args)
    assert rate.case == "tiny" and rate.details["largest difference in grey levels"] <= 1
    assert share.units == "% of a run" and 0 < share.ours < 100


def test_contestants_start_in_turns_and_compile_once():
    begun = []

    def launched(name):
        begun.append(name)
        return None if name == "big" else fresh.Start(float(len(begun)), 4.0, 5_000_000)

    ways = {name: partial(launched, name) for name in ("plain", "big", "tuned")}
    made = fresh.alternate(ways, {"tuned"}, 3)
    assert begun == ["plain", "big", "tuned", "plain", "plain"]
    assert {name: len(starts) for name, starts in made.items()} == {"plain": 3, "big": 0, "tuned": 1}
    start, compiling, memory = fresh.rows("train", "tiny", {"big": {}}, made, {"tuned": 4.0}, CPU)
    assert (start.ours, start.plain, start.tuned, start.ratios) == (None, 4.0, 3.0, {})
    assert (compiling.case, compiling.ours, compiling.tuned) == ("tiny: compiling", None, 4.0)
    assert (memory.ours, memory.plain, memory.units) == (None, 5.0, "MB")
    start, *_ = fresh.rows("train", "tiny", {"plain": {}}, made, {}, CPU)
    assert start.ratios == {"plain": [1.0, 1.0, 1.0], "tuned": [3.0, 3.0, 3.0]}


def test_the_first_start_of_a_package_builds_it(monkeypatch):
    begun = []

    def launched(benchmark, way, *_, **options):
        begun.append(way)
        return fresh.Start(60.0 if begun == [way] else 2.0, 0.0, None)

    monkeypatch.setattr(fresh, "launch", launched)
    package = train.Mode("float32", "package")
    start, compiling, memory = train.starts("train", "tiny", small(), {package: {}}, 2, CPU, 1, mode="default")
    assert begun == [package, "plain", "tuned", package, package, "tuned", "plain"]
    assert (start.ours, compiling.ours, compiling.tuned, memory.ours) == (2.0, 58.0, None, None)
    assert start.details["starts"] == 2


def test_a_contestant_that_fails_says_why():
    with pytest.raises(StageError, match=r"failed: .*NoSuchWay"):
        fresh.launch("train", train.Mode("float32", "NoSuchWay"), small(), CPU, 1, mode="default")  # type: ignore


def test_compiler_caches_are_empty_and_of_this_measurement(monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", "mine")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    with fresh.compiler_caches():
        assert all(os.environ[name] != "mine" and not os.path.exists(os.environ[name]) for name in fresh.CACHES)
    assert os.environ["TRITON_CACHE_DIR"] == "mine" and "TORCHINDUCTOR_CACHE_DIR" not in os.environ


@pytest.mark.exhaustive
def test_scaling_has_a_row_for_each_number_of_processes_and_threads():
    rows = command(
        "scaling", "--cores", "2", "--batch", "2", "--seconds", "0.01", "--rounds", "2", "--device", "cpu"
    )  # fmt: skip
    assert [row.case for row in rows] == ["1 process", "2 processes", "2 threads"]
    assert rows[0].ratios == {"one": [1.0, 1.0, 1.0]}
    for row in rows:
        assert row.ours > 0 and 0.005 < row.details["share of perfect scaling"] < 4
    assert [scaling.named(1, "process", "eager"), scaling.named(2, "process", "package")] == [
        "1 process",
        "2 processes, package",
    ]
    assert [scaling.numbers(count) for count in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_scaling_adds_the_rates_of_a_team():
    class Steady:
        def __init__(self, seconds):
            self.seconds, self.asked = seconds, 0

        def send(self, steps):
            self.asked = steps

        def receive(self):
            return self.asked * self.seconds

    pair = [Steady(0.5), Steady(1.0)]
    taken = scaling.rounds({"1 process": pair[:1], "2 processes": pair}, 4, 3)
    assert taken == {"1 process": [[2.0]] * 3, "2 processes": [[2.0, 4.0]] * 3}
    one, two = scaling.compared(taken, "1 process", 40)
    assert one == ("1 process", 20.0, timing.Ratio(1.0, 1.0, 1.0))
    assert two == ("2 processes", 30.0, timing.Ratio(1.5, 1.5, 1.5))


def test_a_worker_that_fails_ends_the_measurement(capfd):
    with pytest.raises(StageError, match="a worker has failed"), scaling.Worker({}) as worker:
        worker.receive()
    assert "KeyError" in capfd.readouterr().err


def test_cases_are_the_papers_networks():
    shapes = {name: runs.shape(runs.case(name)) for name in runs.CASES}
    assert shapes["tiny"] == (1, 8, 8) and shapes["16x16 width 128"] == (3, 16, 16)
    for name in runs.PAPER:
        setup = runs.case(name)
        assert name == f"{setup.data.resolution}x{setup.data.resolution} width {setup.network.channels}"
        assert setup.network.attention == [setup.data.resolution // 2]


def test_tf32_is_measured_on_a_gpu_only():
    assert "tf32" in runs.precisions("cuda") and runs.precisions("cpu") == ["float32", "bfloat16"]
    args = argparse.Namespace(precision=None, compile=False)
    both = [train.Mode("float32"), train.Mode("bfloat16")]
    assert train.modes(args, CPU) == both
    args.compile = True
    assert train.modes(args, CPU) == [*both, train.Mode("float32", "package"), train.Mode("bfloat16", "package")]


def test_rows_need_no_package_beyond_torch_and_numpy(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(record, "version", missing)
    record._machine.cache_clear()
    try:
        assert "snakemake" not in row().versions and "torch" in row().versions
    finally:
        record._machine.cache_clear()


def row(benchmark="train", hardware="CPU: one, 2 cores", ours=1.0, **changes):
    made = record.make(
        benchmark, "a | b", "images/s", ours, 2.0, timing.Ratio(0.5, 0.4, 0.6), {"batch": 4}, tuned=3.0,
        ratios={"tuned": timing.Ratio(0.25, 0.2, 0.3)},
    )  # fmt: skip
    return replace(made, hardware=hardware, **changes)


def test_results_keep_what_another_machine_measured(tmp_path):
    page = tmp_path / "RESULTS.md"
    results.update([row(ours=11.5), row("score", ours=12.5)], page)
    first = page.read_text()
    assert "## GPU\n\n### train\n\nnot measured" in first and "11.5" in first and "a / b" in first
    results.update([row(hardware="GPU: some, host two", ours=13.5)], page)
    second = page.read_text()
    assert "## GPU\n" not in second and "## GPU: some, host two\n\n### train\n\nMeasured" in second
    assert "11.5" in second and "12.5" in second and "13.5" in second
    assert second.count("not measured") == 11  # of thirteen on a CPU and a GPU and without hardware
    results.update([row(ours=14.5)], page)
    third = page.read_text()
    assert "11.5" not in third and all(number in third for number in ("12.5", "13.5", "14.5"))
    assert results.text(results.parse(third)) == third


def test_tables_have_a_column_for_each_baseline():
    table = results.table([row(), row(ratios={}, tuned=None)]).splitlines()
    assert table[2] == "| case | ours | plain | tuned | units | / plain | / tuned | batch |"
    assert table[4] == "| a / b | 1 | 2 | 3 | images/s | 0.5 (0.4 to 0.6) | 0.25 (0.2 to 0.3) | 4 |"
    assert table[5] == "| a / b | 1 | 2 |  | images/s |  |  | 4 |"
    assert "tuned" not in results.table([row(ratios={}, tuned=None)])


def test_the_page_can_be_read():
    page = results.PAGE.read_text()
    assert results.text(results.parse(page)) == page


def test_results_ask_for_every_benchmark():
    page = results.text({})
    assert page.count("not measured") == 7 and f"## {record.ANYWHERE}\n\n### search\n\nnot measured" in page
    page = results.text(results.merge({}, [row(name) for name in NAMES]))
    assert page.count("Measured") == len(NAMES) and all(f"### {name}\n" in page for name in NAMES)


@pytest.mark.parametrize("line", ["", "hello", "5", "[]", '{"benchmark": "train"}'])
def test_other_output_is_no_row(line):
    assert record.read(line) is None


def test_jobs_are_timed_by_module(tmp_path):
    project.stopwatch(tmp_path / "programs", tmp_path / "log", sys.executable)
    done = subprocess.run([tmp_path / "programs" / "python", "-m", "emmeter.training.seeds"])
    assert done.returncode == 0
    assert subprocess.run(
        [tmp_path / "programs" / "python", "-m", "emmeter.nothing"], stderr=subprocess.DEVNULL
    ).returncode
    asked = [tmp_path / "programs" / "python", "-c", "import sys; print(sys.prefix)"]
    assert subprocess.run(asked, capture_output=True, text=True).stdout.strip() == sys.prefix
    with (tmp_path / "log").open("a") as log:
        log.write("emmeter.machine.slots 1.0 2.0\n")  # has become another job, which has a line of its own
    jobs = project.jobs(tmp_path / "log")
    assert [job.module for job in jobs] == ["seeds", "nothing"] and all(0 < job.seconds < 60 for job in jobs)


def test_parts_of_the_default_study_add_up():
    jobs = [
        project.Job("train", 10.0),
        project.Job("train", 14.0),
        project.Job("score", 5.0),
        project.Job("tables", 3.0),
    ]
    done = project.Execution(30.0, 4.0, jobs, "")
    parts = end_to_end.split(done, {"train": 2.0, "score": 1.0, "tables": 0.5}, 3.0, 60.0)
    assert parts["training"] == 17.0 and parts["scoring"] == 4.0 and parts["sampling"] == 0.0
    assert parts["process start-up"] == 8.5 and parts["subsets, tables, figures, report"] == 2.5
    assert sum(parts.values()) == pytest.approx(60.0)


def test_end_to_end_compares_the_same_computations():
    parts = {"training": 8.0, "sampling": 3.0, "scoring": 1.0, "idle and waiting": 8.0}
    parts |= {"image quality": 0.3, "errors by noise level": 0.1}
    executions = [end_to_end.Whole(seconds, parts, 4, 9) for seconds in (10.0, 12.0, 14.0)]
    taken = {"training": 3.0, "sampling": 1.0, "scoring": 0.5}
    rows = {row.case: row for row in end_to_end.rows(executions, {"plain": [taken] * 3}, 2, 2, "cpu")}
    whole, same, training = (rows[case] for case in ("whole", "same computations", "training"))
    assert (whole.ours, whole.plain, whole.tuned, whole.units) == (12.0, 9.0, None, "s")
    assert whole.ratios == {"plain": [0.75, pytest.approx((9 / 14 + 0.75) / 2, 1e-3), pytest.approx(0.825)]}
    assert whole.details["quartiles"] == "11 to 13" and whole.details["rounds"] == 3
    assert (same.ours, same.plain, same.ratios["plain"]) == (12.0, 18.0, [1.5, 1.5, 1.5])
    assert (training.ours, training.plain, training.details["share"]) == (8.0, 12.0, "33.3 %")
    assert rows["idle and waiting"].plain is None
    assert (rows["measures"].ours, rows["measures"].details["of_training"]) == (pytest.approx(0.4), "5.0 %")


@pytest.mark.parametrize("baseline", end_to_end.BASELINES)
def test_a_baselines_run_trains_samples_and_scores(baseline):
    setup = small(sampling__images=3, sampling__steps=2, training__snapshots=[0.5, 1.0])
    drawn = labelled(setup, 12)
    seconds = script.run(baseline, setup, drawn, CPU)
    assert list(seconds) == list(script.PARTS) and all(value > 0 for value in seconds.values())


def test_baselines_of_a_run_sample_from_their_averaged_weights():
    setup, shape = small(sampling__images=5, sampling__steps=3), (1, 8, 8)
    drawn = runs.random_subset(setup, 12)
    for make in (script._plain, script._tuned):
        advance, sampler = make(setup, drawn, CPU)
        before = sampler(None)
        for _ in range(3):
            advance()
        assert before.shape == (5, *shape) and not torch.equal(sampler(None), before)


@pytest.mark.exhaustive
def test_a_baselines_runs_are_made_side_by_side():
    setup = small(sampling__images=2, sampling__steps=2, training__snapshots=[1.0])
    seconds = script.side_by_side("tuned", setup, 20, CPU, 2)
    assert list(seconds) == list(script.PARTS) and all(0 < value < 60 for value in seconds.values())


def test_large_project_asks_for_seven_runs_an_arm(tmp_path):
    project.copy(tmp_path / "project")
    overlay = dag.prepare(tmp_path / "project", tmp_path / "scores", 2, 3)
    settings = read(load([overlay], tmp_path / "project"))
    assert settings.selected == ["study_0", "study_1"]
    chosen = [study for study in settings.studies if study.name in settings.selected]
    assert len({key("train", arm.setup) for study in chosen for arm in study.arms}) == 6
    scores = [json.loads(path.read_text())["snapshots"][0] for path in (tmp_path / "scores").glob("*.json")]
    assert len(scores) > dag.RUNS and all(0 <= one["memorized"] <= one["images"] for one in scores)


def test_processor_time_of_dry_runs_is_split_into_medians():
    parts = [{"imports": 1.0, "rules": 2.0, "functions": 3.0, "graph": graph} for graph in (9.0, 4.0, 5.0)]
    executions = [project.Execution(0.0, sum(part.values()), [], "", part) for part in parts]
    names = {"Snakemake's processor seconds": 11.0} | dict(zip(dag.PARTS.values(), (1.0, 2.0, 3.0, 5.0), strict=True))
    assert dag.processor(executions) == names


GPU_CASES = {
    "stages": ["stages", "scoring", "killed and resumed", "saving"],
    "tiny": ["graph against eager", "ensembles", "processes"],
    "wide": ["profile"],
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", GPU_CASES)
def test_the_gpu_benchmark_runs_on_a_cpu_too(part, tmp_path):
    """Each case that builds no package yields rows without errors, and the rows are in the file."""
    rows = command(
        "gpu", "--device", "cpu", "--quick", "--part", part, "--rows", tmp_path / "rows", "--cases", *GPU_CASES[part]
    )
    assert rows and all("error" not in row.details for row in rows), [row.details for row in rows]
    assert [record.read(line) for line in (tmp_path / "rows").read_text().splitlines()] == rows
    by_case = {row.case: row for row in rows}
    if part == "stages":
        resumed = by_case["killed and resumed"].details
        assert resumed["status at SIGTERM"] == 143 and 0 < resumed["resumed at image"] < 3200
        assert resumed["last loss, whole"] == resumed["last loss, resumed"]
    if part == "tiny":
        assert by_case["graph against eager, 20 steps with dropout"].details["largest difference of weights"] == 0
        assert by_case["ensemble of 8"].ours > 0


def test_an_ensemble_has_the_gradients_of_its_runs():
    setup = small()
    torch.manual_seed(0)
    denoiser = shaken(build(setup, runs.shape(setup), 0)).train()
    together = ensemble.Ensemble(denoiser, 3, 6, runs.shape(setup), 0.01)
    together.values += 0.01 * torch.randn_like(together.values)
    together.draw_batch(to_unit(torch.from_numpy(runs.random_subset(setup, 20).images)))
    gradients, losses = together.gradients()
    for run in range(3):
        step = functional.step(denoiser, together.layout)
        sigma = denoiser.kind.training_sigma(together.draw[run])
        embedding = denoiser.embed(sigma).detach()
        loss, gradient, _ = step(
            together.values[run], together.images[run], sigma, together.noise[run], embedding, None
        )
        assert losses[run].item() == pytest.approx(loss.item(), rel=1e-5)
        assert (gradients[run] - gradient).abs().max() < 1e-5 * gradient.abs().max()


def test_a_contestant_that_fails_yields_its_error_and_the_others_go_on():
    def broken():
        raise RuntimeError("no such kernel")

    args = argparse.Namespace(quick=True)
    makers = {"broken": broken, "sum": lambda: partial(sum, range(1000))}
    rows = list(gpu.compete("tiny", args, CPU, makers, "sums/s", 1.0, 0.01, {"batch": 1}))
    assert [row.case for row in rows] == ["broken", "sum (alone)", "sum"]
    assert rows[0].ours is None and rows[0].details["error"] == "RuntimeError: no such kernel"
    assert rows[2].ours > 0


CURVE = search.Curve(slope=2.8, run_sd=0.4, gap=3.0, gap_sd=1.0, above=5, fallen=0)


def test_reference_curve_is_read_from_the_tables():
    curve = search.reference(search.REFERENCE)
    assert 2 < curve.slope < 4.5 and 0 < curve.run_sd < 1 and curve.gap > 1
    assert 0 <= curve.fallen <= curve.above > 0
    with pytest.raises(StageError, match="must hold the tables"):
        search.reference(runs.ROOT / "config")


def test_simulated_runs_follow_the_curve():
    random = np.random.default_rng(0)
    counts = [search.drawn(CURVE.slope * octaves, 100_000, random) for octaves in (0.5, 0.0, -0.5)]
    line = fit_line([100, 141, 200], counts)
    assert line.slope == pytest.approx(-CURVE.slope, abs=0.1)
    assert counts[1].ratio == pytest.approx(0.9, abs=0.01)


@pytest.fixture(scope="module")
def digits():
    return search.configured_scale("digits")


def variant(**changes):
    return search.Variant("", 250, **changes)


def test_search_costs_what_its_runs_cost(digits):
    random = np.random.default_rng(1)
    trail, counts, spent = search.search(digits, CURVE, variant(), math.log2(25), random)
    setup = digits.setup
    assert spent.trained == len(trail.runs) * 16_000 and set(counts) == set(trail.runs)
    assert spent.sampled == len(trail.runs) * 250 * len(setup.training.snapshots)
    evaluations = (2 * setup.sampling.steps - 1) * spent.sampled
    assert spent.flops == pytest.approx(digits.forward * (3 * spent.trained + evaluations))
    again, _, shared = search.search(digits, CURVE, variant(shared=True), math.log2(25), np.random.default_rng(1))
    assert again == trail and shared.trained == spent.trained - 16_000


def test_early_stop_saves_half_of_a_locating_run_far_above_the_line(digits):
    far = replace(CURVE, gap=0.5, gap_sd=0.0)
    _, _, whole = search.search(digits, far, variant(), math.log2(200), np.random.default_rng(2))
    trail, _, spent = search.search(digits, far, variant(early=True), math.log2(200), np.random.default_rng(2))
    assert spent.trained < len(trail.runs) * 16_000
    assert spent.sampled < len(trail.runs) * 250 * len(digits.setup.training.snapshots)
    assert whole.trained % 16_000 == 0


def test_grid_costs_five_runs_and_repetitions_make_it_better(digits):
    once, interpolated = search.grid(digits, CURVE, 60, 0, 1)
    assert once[0].spent.trained == 5 * 16_000 and once[0].spent.sampled == 5 * 16 * 10_000
    _, often = search.grid(digits, CURVE, 60, 0, 12)
    assert search.error(once) > search.error(interpolated) > search.error(often)
    assert search.summary(once)["high / low"] == pytest.approx(2.0)
    repeated = search.Repeated(digits, CURVE, 60, 0)
    assert repeated.until(search.error(interpolated)) == 1 and repeated.until(1e-9) is None


def test_adaptive_search_finds_the_truth(digits):
    found = search.summary(search.adaptive(digits, CURVE, variant(), 120, 0, 0))
    assert found["error, octaves"] < 0.3 and found["coverage"] > 0.85 and found["without estimate"] < 0.2
    assert 1 < found["high / low"] < 3
