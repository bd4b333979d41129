"""Counts of operations: the paper's costs, and torch's own counter on every kind of network."""

import subprocess
import sys

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from emmeter.diffusion import operations
from emmeter.diffusion.precision import cast
from emmeter.diffusion.unet import UNet
from emmeter.settings.sections import Network

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("expected", "digits", "side", "network"),
    [
        (25.4, 1, 32, {"attention": [16]}),
        (6.3, 1, 16, {"attention": [8]}),
        (1.6, 1, 8, {"attention": [4]}),
        (57, 0, 32, {"channels": 192}),
        (101, 0, 32, {"channels": 256}),
        (158, 0, 32, {"channels": 320}),
        (42, 0, 32, {"blocks": 4}),
        (59, 0, 32, {"blocks": 6}),
        (110, 0, 32, {"blocks": 12}),
        (25.8, 1, 32, {"architecture": "ncsnpp"}),
    ],
)
def test_forward_cost_equals_the_papers(expected, digits, side, network):
    assert round(operations.planned(Network(**network), (3, side, side))[0] / 1e9, digits) == expected


@pytest.mark.exhaustive
@pytest.mark.parametrize("labels", [0, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"architecture": "ncsnpp"},
        {"attention": [16, 8, 4], "dropout": 0.3},
        {"embedding": "fourier", "blocks": 3},
        {"skips": [1, 0, 0, 1, 0, 0, 1, 0, 1]},
        {"multipliers": [1], "attention": []},
    ],
)
@torch.no_grad()
def test_count_equals_torchs(changes, dtype, labels):
    settings = Network(**({"channels": 8, "multipliers": [1, 2, 2], "blocks": 2, "attention": [8]} | changes))
    network = UNet(settings, 16, 3, labels)
    cast(network, dtype)
    # Attention by two products, because the counter of torch 2.11 passes over the fused operator of processors.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 16, 16), torch.ones(1), torch.zeros(1, dtype=torch.int64) if labels else None)
    assert operations.forward(network, (3, 16, 16)) == counter.get_total_flops() > 0
    assert operations.planned(settings, (3, 16, 16))[0] == counter.get_total_flops()


def test_counting_changes_nothing():
    network = UNet(Network(channels=8, multipliers=[1], attention=[], dropout=0.5), 8, 1).train()
    before, state = {k: v.clone() for k, v in network.state_dict().items()}, torch.get_rng_state()
    operations.forward(network, (1, 8, 8))
    assert network.training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_parameters_of_a_planned_network():
    settings = Network(channels=8, multipliers=[1, 2], attention=[4])
    assert operations.planned(settings, (1, 8, 8))[1] == sum(p.numel() for p in UNet(settings, 8, 1).parameters())


def test_counting_a_built_network_does_not_load_the_compiler():
    program = """
import sys
from emmeter.diffusion import operations
from emmeter.settings.sections import Network
from emmeter.diffusion.unet import UNet
assert operations.forward(UNet(Network(channels=8, multipliers=[1]), 8, 1), (1, 8, 8)) > 0
sys.exit("loaded" if "torch._dynamo" in sys.modules else 0)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
