"""Compiled networks: one graph, and machines without a compiler."""

import importlib
from collections.abc import Iterator

import pytest
import torch

from emmeter.errors import StageError
from emmeter.training import compiling, log
from emmeter.training.trainer import start
from small_run import CPU, VARIANTS, N, setup_with, subset_of

pytestmark = pytest.mark.slow


@pytest.fixture
def restored_compiler() -> Iterator[None]:
    """Restore torch's option that "auto" sets for the whole process."""
    with torch._dynamo.config.patch(suppress_errors=False):
        yield


@pytest.mark.parametrize("name", VARIANTS)
def test_a_compiled_network_is_one_graph_with_the_same_gradients(name, tmp_path, monkeypatch):
    """The graph that torch.compile captures runs without code generation; `fullgraph` refuses to split it."""
    changes, labels = VARIANTS[name]
    setup = setup_with(**(changes | {"network": changes.get("network", {}) | {"dropout": 0.0}}))
    graphs, original = [], torch.compile

    def compiled(function, **options):
        def backend(graph, inputs):
            graphs.append(graph)
            return graph.forward

        return original(function, fullgraph=True, backend=backend, **options)

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(compiling, "check_compiler", lambda device: None)
    trainers = [
        start(setup, subset_of(n, labels), n, 0, CPU, tmp_path / f"{n}{when}", compiled=when)
        for n in (N, 2 * N) for when in ("never", "always")
    ]  # fmt: skip
    for trainer in trainers:
        for _ in range(3):
            trainer.advance()
        log.append(trainer)  # evaluation, with another batch size, is not compiled
    for eager, lowered in (trainers[:2], trainers[2:]):
        assert torch.allclose(eager.parameters.values, lowered.parameters.values, rtol=0, atol=1e-6)
    assert len(graphs) == 2  # one per network, for every N and number of steps


@pytest.mark.usefixtures("restored_compiler")
def test_long_trainings_continue_without_a_compiler(tmp_path, monkeypatch):
    def broken(graph, inputs):
        attempts.append(graph)
        raise RuntimeError("no compiler")

    attempts, original = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: original(function, backend=broken, **options))
    monkeypatch.setattr(compiling, "LONG", 1)
    eager, fallback = (
        start(setup_with(), subset_of(), N, 0, CPU, tmp_path / when, compiled=when) for when in ("never", "auto")
    )
    for trainer in (eager, fallback):
        trainer.advance()
        trainer.advance()
    assert attempts
    assert torch.equal(eager.parameters.values, fallback.parameters.values)


def test_a_requested_compilation_without_a_compiler_is_an_error(tmp_path, monkeypatch):
    """The real torch.compile finds no C++ compiler."""
    torch._dynamo.reset()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    nothing = {"cpp.cxx": (str(tmp_path / "nothing"),)}
    line = r"^execution\.compile = 'always': this machine cannot .*; use auto or never$"
    with importlib.import_module("torch._inductor.config").patch(nothing), pytest.raises(StageError, match=line):
        start(setup_with(), subset_of(), N, 0, CPU, tmp_path, compiled="always")


@pytest.mark.usefixtures("restored_compiler")
@pytest.mark.parametrize(("steps", "compiled"), [(19_999, False), (20_000, True)])
def test_only_long_trainings_are_compiled(steps, compiled, tmp_path):
    setup = setup_with(training={"duration": f"{10 * steps} images"})
    trainer = start(setup, subset_of(), N, 0, CPU, tmp_path, compiled="auto")
    assert (trainer.denoiser.compiled is not None) == compiled
