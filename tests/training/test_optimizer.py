"""Flat parameters and optimizers against torch's own."""

import pytest
import torch
from torch import nn

from emmeter.settings.sections import Training
from emmeter.training.optimizer import FlatParameters, Optimizer
from emmeter.training.trainer import build
from small_run import setup_with


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_flat_parameters_keep_values_shapes_and_layouts(layout):
    torch.manual_seed(0)
    module = build(setup_with(), (1, 8, 8), 3).network.to(memory_format=layout)
    before = {name: (p.detach().clone(), p.stride()) for name, p in module.named_parameters()}
    flat = FlatParameters(module)
    assert flat.values.shape == (sum(value.numel() for value, _ in before.values()),)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, before[name][0])
        assert parameter.stride() == before[name][1]
        assert parameter.untyped_storage().data_ptr() == flat.values.untyped_storage().data_ptr()
    assert any(p.is_contiguous(memory_format=layout) for p in module.parameters() if p.dim() == 4)
    for name, view in flat.view(flat.values.clone()).items():
        assert torch.equal(view, before[name][0])


def test_updating_the_flat_tensor_updates_the_module():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    copy = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    copy.load_state_dict(module.state_dict())
    flat = FlatParameters(module)
    flat.values.mul_(2)
    for ours, theirs in zip(module.parameters(), copy.parameters(), strict=True):
        assert torch.equal(ours, 2 * theirs)
        theirs.data.mul_(2)
    x = torch.randn(5, 3)
    assert torch.equal(module(x), copy(x))


def torch_optimizer(kind: Training, parameters) -> torch.optim.Optimizer:
    if kind.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=1.0, momentum=kind.momentum, weight_decay=kind.weight_decay)
    form = torch.optim.AdamW if kind.decoupled else torch.optim.Adam
    return form(parameters, lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=kind.weight_decay)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weight_decay": 0.3},
        {"weight_decay": 0.3, "decoupled": True},
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "momentum": 0.0},
        {"optimizer": "sgd", "weight_decay": 0.3, "momentum": 0.5},
    ],
    ids=str,
)
def test_optimizer_equals_torch(changes):
    kind = Training(**changes)
    torch.manual_seed(0)
    module, reference = (nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2)) for _ in range(2))
    reference.load_state_dict(module.state_dict())
    flat = FlatParameters(module)
    ours, theirs = Optimizer(kind, flat), torch_optimizer(kind, reference.parameters())
    start_values = flat.values.clone()
    for step in range(8):
        rate = 0.01 * (step + 1) / 8
        x, y = torch.randn(6, 2, 4, 4), torch.randn(6, 2)
        for network in (module, reference):
            (network(x) - y).square().mean().backward()
        ours.rate.fill_(rate)
        ours.step(flat.layout.flat(p.grad for p in module.parameters() if p.grad is not None))
        module.zero_grad()
        theirs.param_groups[0]["lr"] = rate
        theirs.step()
        theirs.zero_grad()
        expected = torch.cat([p.detach().flatten() for p in reference.parameters()])
        assert (flat.values - expected).abs().max() < 1e-6
    assert (flat.values - start_values).abs().max() > 1e-3


def test_decoupled_decay_of_sgd_shrinks_weights_beside_the_gradient():
    kind = Training(optimizer="sgd", momentum=0.9, weight_decay=0.5, decoupled=True)
    flat = FlatParameters(nn.Linear(3, 2))
    values, momentum = flat.values.double(), torch.zeros(8, dtype=torch.float64)
    optimizer = Optimizer(kind, flat)
    for step in range(5):
        gradient = torch.linspace(-1, 1, 8) * (step + 1)
        optimizer.rate.fill_(0.1)
        optimizer.step(gradient)
        momentum = 0.9 * momentum + gradient
        values = values * (1 - 0.1 * 0.5) - 0.1 * momentum
        assert (flat.values - values).abs().max() < 1e-5
