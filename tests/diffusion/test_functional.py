"""The training step and the denoiser as functions of tensors: equal to the modules, for every label and mask."""

import pytest
import torch

from emmeter.diffusion.functional import LABELS, Layout, denoising, own_step, step
from emmeter.diffusion.networks import ScoreNetwork, build_network
from emmeter.diffusion.preconditioning import EDM, VE, VP, Denoiser, Flow, denoising_loss
from emmeter.settings.sections import Network

BATCH = 4


def network(labels: int = 0, **changes: object) -> ScoreNetwork:
    """A network with weights far from zero, in the memory layout of training."""
    settings = {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "dropout": 0.0, **changes}
    torch.manual_seed(0)
    made = build_network(Network.model_validate(settings), 8, 1, labels).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made


def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(BATCH, 1, 8, 8, generator=generator) * 2 - 1
    return images, torch.rand(BATCH, generator=generator), torch.randn(BATCH, 1, 8, 8, generator=generator)


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors differ by no more than rounding of their largest value."""
    return float((one - other).abs().max()) <= 1e-5 * float(other.abs().max())


def test_layout_views_and_flat_are_inverse():
    parameters = dict(network().named_parameters())
    layout = Layout.of(parameters)
    flat = layout.flat(parameters.values())
    assert flat.shape == (layout.size,) == (sum(p.numel() for p in parameters.values()),)
    views = layout.views(torch.cat([torch.zeros(3), flat])[3:])  # a tensor that begins inside another one
    assert all(torch.equal(views[name], parameter) for name, parameter in parameters.items())
    assert {views[name].stride() for name in views} == {parameter.stride() for parameter in parameters.values()}


def test_a_prefix_that_does_not_come_first_is_refused():
    layout = Layout.of(dict(network().named_parameters()))
    with pytest.raises(ValueError, match="must come before all others"):
        layout.without("out_conv.")


@pytest.mark.parametrize("kind", [VP(), VE(), EDM(0.5), Flow()])
@pytest.mark.parametrize("labels", [0, 3])
@pytest.mark.parametrize(
    "changes", [{}, {"architecture": "ncsnpp"}, {"architecture": "dit"}, {"skips": [1, 0, 0, 1]}, {"dropout": 0.3}]
)
def test_the_step_has_the_loss_and_the_gradients_of_autograd(kind, labels, changes):
    made = network(labels, **changes)
    denoiser = Denoiser(made, kind).train()
    images, draw, noise = drawn()
    given = torch.arange(BATCH) % labels if labels else None
    torch.manual_seed(5)  # of dropout
    expected = denoising_loss(denoiser, kind, images, draw, noise, given).mean()
    expected.backward()

    parameters = dict(made.named_parameters())
    count, layout = Layout.of(parameters).without(LABELS)
    flat = Layout.of(parameters).flat(p.detach() for p in parameters.values())[count:]
    sigma = kind.training_sigma(draw)
    embedding = made.embed(kind.coefficients(sigma).noise, given)
    torch.manual_seed(5)
    loss, gradient, of_embedding = step(denoiser, layout)(
        flat, images, sigma, noise, embedding, torch.tensor(made.skip_flags, dtype=torch.float32)
    )
    assert torch.equal(loss, expected.detach())
    assert near(gradient, layout.flat(parameters[name].grad for name in layout.places))
    torch.manual_seed(5)
    own_loss, own_gradient, own_of_embedding = own_step(denoiser, layout)(flat, images, sigma, noise, embedding, None)
    assert torch.equal(own_loss, loss)
    assert torch.equal(own_gradient, layout.flat(parameters[name].grad for name in layout.places))
    assert near(own_of_embedding, of_embedding)
    if labels:
        through = torch.autograd.grad(embedding, [made.label_embedding.weight, made.label_embedding.bias], of_embedding)
        for own, whole in zip(through, (made.label_embedding.weight, made.label_embedding.bias), strict=True):
            assert near(own, whole.grad)


def test_the_step_leaves_weights_and_their_gradients_alone():
    made = network()
    layout = Layout.of(dict(made.named_parameters()))
    before = {name: parameter.detach().clone() for name, parameter in made.named_parameters()}
    images, draw, noise = drawn()
    embedding = made.embed(draw)
    step(Denoiser(made, EDM()).train(), layout)(
        torch.zeros(layout.size), images, draw, noise, embedding, torch.ones(len(made.skip_flags))
    )
    assert all(torch.equal(before[name], parameter) for name, parameter in made.named_parameters())
    assert all(parameter.grad is None for parameter in made.parameters())


@pytest.mark.parametrize("labels", [0, 3])
def test_the_denoiser_as_a_function_equals_the_module(labels):
    made = network(labels, skips=[1, 0, 1, 1])
    denoiser = Denoiser(made, EDM()).eval()
    images, draw, _ = drawn()
    given = torch.arange(BATCH) % labels if labels else None
    parameters = dict(made.named_parameters())
    count, layout = Layout.of(parameters).without(LABELS)
    flat = Layout.of(parameters).flat(p.detach() for p in parameters.values())[count:]
    with torch.no_grad():
        embedding = made.embed(EDM().coefficients(draw).noise, given)
        mask = torch.tensor(made.skip_flags, dtype=torch.float32)
        denoised = denoising(denoiser, layout)(flat, images.double(), draw.double(), embedding, mask)
        torch.testing.assert_close(denoised, denoiser(images, draw, given), rtol=1e-6, atol=1e-6)
