"""Images without labels, and classifier-free guidance: its identities, its formula and its cost."""

import pytest
import torch
from torch import Tensor

from emmeter.diffusion import functional
from emmeter.diffusion.layers import NO_LABEL, LabelEmbedding, VectorEmbedding
from emmeter.diffusion.preconditioning import Denoiser
from emmeter.diffusion.sampling import Denoise, Draws, draws, generate, guided, noise_levels
from emmeter.settings.validation import read_setup
from emmeter.training.functions import denoise_function
from emmeter.training.optimizer import FlatParameters
from emmeter.training.packages import Package
from emmeter.training.trainer import build
from networks import awake

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)
SETUP = read_setup(
    {
        "data": {"labels": "random-3"},
        "network": {"channels": 8, "multipliers": [1], "blocks": 1, "attention": [], "dropout": 0.0},
        "diffusion": {"preconditioning": "edm"},
        "training": {"label_dropout": 0.1},
        "sampling": {"steps": 4},
    }
)
DRAWN = draws(6, SHAPE, torch.arange(3), 0)


def denoiser() -> Denoiser:
    return awake(build(SETUP, SHAPE, 3)).eval().requires_grad_(False)


def images(denoise: Denoise, drawn: Draws = DRAWN) -> Tensor:
    return generate(denoise, drawn, noise_levels(SETUP.sampling), 4, CPU)


@pytest.mark.parametrize("layer", [LabelEmbedding(3, 5), VectorEmbedding(torch.randn(3, 4), 5)])
def test_an_image_without_label_has_the_row_of_a_vector_of_zeros(layer):
    torch.nn.init.normal_(layer.bias)
    rows = layer(torch.tensor([NO_LABEL, 0, NO_LABEL, 2]))
    assert torch.equal(rows[[0, 2]], layer.bias.expand(2, -1))
    assert torch.equal(rows[[1, 3]], layer(torch.tensor([0, 2])))
    assert not torch.allclose(rows[1], layer.bias)


def test_guidance_of_one_is_the_denoiser_itself():
    denoise = denoiser()
    assert guided(denoise, 1.0) is denoise


def test_guidance_of_zero_samples_without_labels():
    denoise = denoiser()
    unlabelled = Draws(DRAWN.latents, torch.full((6,), NO_LABEL), DRAWN.seeds)
    assert torch.equal(images(guided(denoise, 0.0)), images(denoise, unlabelled))
    assert not torch.equal(images(guided(denoise, 0.0)), images(denoise))


@pytest.mark.parametrize("weight", [0.5, 2.0, 5.0])
def test_guidance_extrapolates_from_the_denoiser_without_label(weight):
    denoise, x, sigma = denoiser(), torch.randn(3, *SHAPE, dtype=torch.float64), torch.rand(3) + 0.1
    labels = torch.arange(3)
    without, labelled = denoise(x, sigma, torch.full((3,), NO_LABEL)), denoise(x, sigma, labels)
    expected = (1 - weight) * without.double() + weight * labelled.double()
    assert (guided(denoise, weight)(x, sigma, labels) - expected).abs().max() < 1e-9
    assert (without - labelled).abs().max() > 1e-3


@pytest.mark.parametrize(("weight", "calls"), [(0.0, 7), (1.0, 7), (2.0, 14)])
def test_the_cost_of_guidance(weight, calls):
    denoise, counted = denoiser(), []

    def noted(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        counted.append(len(x))
        return denoise(x, sigma, labels)

    images(guided(noted, weight))
    setup = SETUP.model_copy(update={"sampling": SETUP.sampling.model_copy(update={"guidance": weight})})
    assert len(counted) == 2 * calls  # of two batches
    assert setup.evaluations == calls


def test_without_labels_or_a_network_there_is_no_guidance():
    guidance = {"sampling": {"guidance": 3.0, "steps": 4}, "training": {"label_dropout": 0.1}}
    optimum = {"diffusion": {"denoiser": "optimum"}, "data": {"labels": "unique"}}
    for content in (guidance, guidance | optimum):
        setup = read_setup(content)
        assert (setup.guidance, setup.evaluations) == (1, 7)
    with pytest.raises(ValueError, match="guidance needs labels"):
        images(guided(denoiser(), 2.0), draws(6, SHAPE, None, 0))


def test_a_package_is_guided_as_eager_pytorch_is():
    """The function that is compiled into packages stands for a package; the last batch is filled up."""
    denoise = denoiser()
    parameters = FlatParameters(denoise.network)
    _, layout = parameters.layout.without(functional.LABELS)
    compiled = functional.denoising(denoise, layout)
    package = Package("made up", 4, lambda inputs: [compiled(*inputs)])
    eager, packaged = (
        images(guided(denoise_function(denoise, parameters, used), 2.0)).int() for used in (None, package)
    )
    assert (eager - packaged).abs().max() <= 1
    assert eager.float().std() > 10
