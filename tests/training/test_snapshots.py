"""Snapshots: the averaged weights, joined into one file."""

import torch
from safetensors.torch import load_file

from emmeter.training import snapshots
from emmeter.training.optimizer import FlatParameters
from emmeter.training.trainer import build
from small_run import finish, setup_with, subset_of


def test_snapshots_hold_the_averages(tmp_path):
    setup = setup_with()
    trainer = finish(setup, subset_of(), tmp_path)
    snapshots.join(tmp_path, tmp_path / "out.safetensors", {"shares": setup.training.snapshots})
    network = build(setup, (1, 8, 8), 0).network
    tensors = load_file(tmp_path / "out.safetensors")
    assert len(tensors) == 3 * 2 * len(network.state_dict())
    for decay in range(2):
        network.load_state_dict({name: tensors[f"2/{decay}/{name}"] for name in network.state_dict()})
        flat = FlatParameters(network).values
        assert torch.equal(flat, trainer.averages[decay])


def test_several_averages_of_a_network_with_buffers(tmp_path):
    """Fixed Fourier frequencies belong to the snapshot of every decay."""
    setup = setup_with(network={"embedding": "fourier"}, training={"duration": "10 images", "ema_decays": [0.9, 0.5]})
    trainer = finish(setup, subset_of(), tmp_path)
    tensors = load_file(tmp_path / "snapshot-2.safetensors")
    frequencies = trainer.denoiser.network.state_dict()["noise_embedding.frequencies"]
    for decay in range(2):
        assert torch.equal(tensors[f"2/{decay}/noise_embedding.frequencies"], frequencies)
