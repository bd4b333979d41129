"""bfloat16 against float32: types that stay float32, differences of results, and resuming."""

from typing import Any

import pytest
import torch

from emmeter.data.subset import Subset, draw
from emmeter.diffusion.precision import cast, choose
from emmeter.diffusion.preconditioning import denoising_loss
from emmeter.diffusion.sampling import draws, heun, noise_levels
from emmeter.diffusion.unet import UNet
from emmeter.settings.sections import Setup
from emmeter.settings.validation import read_setup
from emmeter.training import log
from emmeter.training.optimizer import FlatParameters
from emmeter.training.trainer import build, start

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def run_of(precision: str, **changes: dict[str, Any]) -> Setup:
    content: dict[str, Any] = {
        "data": {"source": "digits", "held_out": 6, "balanced": False, "resolution": 8},
        "network": {"channels": 16, "multipliers": [1, 2], "blocks": 1, "attention": [4]},
        "diffusion": {"preconditioning": "edm"},
        "training": {"duration": "960 images", "batch_size": 32, "learning_rate": 2e-3, "snapshots": [0.5, 1.0]},
        "sampling": {"images": 8, "steps": 6},
    }
    content["training"]["precision"] = content["sampling"]["precision"] = precision
    for section, values in changes.items():
        content[section] = content[section] | values
    return read_setup(content)


@pytest.fixture(scope="module")
def subset() -> Subset:
    return draw(run_of("float32"), 24, 0)


def test_types_of_each_precision():
    assert [choose(name) for name in ("bfloat16", "tf32", "float32")] == [
        torch.bfloat16, torch.float32, torch.float32,
    ]  # fmt: skip
    for name, allowed in (("tf32", True), ("float32", False), ("bfloat16", False)):
        choose(name)
        assert torch.backends.cuda.matmul.allow_tf32 is allowed
        assert torch.backends.cudnn.allow_tf32 is allowed


def test_weights_averages_and_state_stay_float32(subset, tmp_path):
    trainer = start(run_of("bfloat16"), subset, 24, 0, CPU, tmp_path)
    before = trainer.parameters.values.clone()
    for _ in range(3):
        trainer.advance()
    kept = [trainer.parameters.values, *trainer.averages, trainer.optimizer.state["first"]]
    assert all(tensor.dtype == torch.float32 for tensor in kept)
    assert not torch.equal(before, trainer.parameters.values)
    assert all(parameter.dtype == torch.bfloat16 for parameter in trainer.denoiser.network.parameters())
    assert torch.equal(trainer.parameters.computed, trainer.parameters.values.to(torch.bfloat16))
    # Updates far below bfloat16's resolution of a weight are not lost.
    assert (trainer.parameters.values != trainer.parameters.values.to(torch.bfloat16).float()).any()
    assert all(value.dtype == torch.float32 for value in trainer.averaged()[0].values())


def test_buffers_keep_their_digits():
    network = UNet(run_of("float32", network={"embedding": "fourier"}).network, 8, 1)
    frequencies = network.noise_embedding.frequencies.clone()  # type: ignore[operator]
    cast(network, torch.bfloat16)
    assert torch.equal(network.noise_embedding.frequencies, frequencies)  # type: ignore[arg-type]


@pytest.mark.parametrize("network", [{}, {"architecture": "ncsnpp", "dropout": 0.0}, {"skips": [1, 0, 0, 1]}])
def test_a_gradient_in_bfloat16_points_where_that_in_float32_does(subset, network):
    """The cosine is above 0.99 at random weights: bfloat16 has 8 bits, and its errors are random."""
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        denoiser = build(run_of("float32", network=network), (1, 8, 8), 0).train()
        with torch.no_grad():  # outputs of blocks start near zero: let every weight matter
            for parameter in denoiser.network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        flat = FlatParameters(denoiser.network, dtype)
        images = torch.from_numpy(subset.images[:16]).float() / 127.5 - 1
        loss = denoising_loss(denoiser, denoiser.kind, images, torch.randn(16), torch.randn_like(images)).mean()
        gradients = torch.autograd.grad(loss, list(denoiser.network.parameters()))
        results.append((loss.item(), flat.layout.flat(gradients).float()))
    (loss, gradient), (low_loss, low_gradient) = results
    assert low_loss == pytest.approx(loss, rel=0.02)
    assert torch.nn.functional.cosine_similarity(gradient, low_gradient, dim=0) > 0.99


@pytest.mark.exhaustive  # a minute where the processor emulates bfloat16
def test_training_in_bfloat16_lowers_the_loss_as_float32_does(subset, tmp_path):
    losses = {}
    for precision in ("float32", "bfloat16"):
        trainer = start(run_of(precision), subset, 24, 0, CPU, tmp_path / precision)
        losses[precision] = [trainer.advance().item() for _ in range(30)]
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"][0] == pytest.approx(losses["float32"][0], rel=0.02)
    assert sum(losses["bfloat16"][-10:]) == pytest.approx(sum(losses["float32"][-10:]), rel=0.1)


@pytest.mark.slow
def test_a_resumed_run_in_bfloat16_ends_with_the_same_bits(subset, tmp_path):
    whole = start(run_of("bfloat16"), subset, 24, 0, CPU, tmp_path / "whole")
    part = start(run_of("bfloat16"), subset, 24, 0, CPU, tmp_path / "part")
    for _ in range(4):
        whole.advance()
    for _ in range(2):
        part.advance()
    other = start(run_of("bfloat16"), subset, 24, 0, CPU, tmp_path / "other")
    other.restore(part.state())
    for _ in range(2):
        other.advance()
    assert torch.equal(whole.parameters.values, other.parameters.values)
    assert torch.equal(whole.averages[0], other.averages[0])


def test_evaluation_leaves_the_weights_that_the_network_computes_with(subset, tmp_path):
    trainer = start(run_of("bfloat16"), subset, 24, 0, CPU, tmp_path)
    trainer.advance()
    before = trainer.parameters.computed.clone()
    log.evaluate(trainer)
    assert torch.equal(before, trainer.parameters.computed)


def test_sampling_in_bfloat16_is_near_that_in_float32():
    """The sampler's state stays float64: only the denoiser's output is coarser."""
    images = []
    for precision in ("float32", "bfloat16"):
        setup = run_of(precision)
        torch.manual_seed(0)
        denoiser = build(setup, (1, 8, 8), 0).eval().requires_grad_(False)
        for parameter in denoiser.network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        cast(denoiser.network, choose(precision))
        drawn = draws(8, (1, 8, 8), None, 0)
        images.append(heun(denoiser, drawn.latents, noise_levels(setup.sampling)))
    assert images[0].dtype == images[1].dtype == torch.float64
    difference = (images[0] - images[1]).square().mean().sqrt()
    assert 0 < difference < 0.05 * images[0].std()
