"""The networks: reference vectors, the paper's sizes and costs, attention, skip masks, labels, memory layouts."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import check_vectors
from emmeter.diffusion import layers
from emmeter.diffusion.layers import Attention, LabelEmbedding, Resample, VectorEmbedding, convolution, normalization
from emmeter.diffusion.unet import UNet
from emmeter.settings.sections import Network
from networks import awake

TESTS = Path(__file__).parents[1]

NETWORK_VECTORS = sorted(path for path in (TESTS / "vectors").glob("*.npz") if check_vectors.is_network_vector(path))


def small(**changes) -> Network:
    settings = {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "dropout": 0.0}
    return Network(**{**settings, **changes})


def inputs(count: int = 3, channels: int = 1, side: int = 8, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, side, side, generator=generator), torch.randn(count, generator=generator)


# Reference vectors


def test_vectors_of_every_kind_are_there():
    names = {path.stem for path in NETWORK_VECTORS}
    assert names >= {"ddpmpp_vp", "ddpmpp_edm_class10", "ncsnpp_ve", "ddpmpp_vp_skip_100000000"}


@pytest.mark.parametrize("path", NETWORK_VECTORS, ids=lambda path: path.stem)
def test_network_equals_reference(path):
    assert check_vectors.error(path) < 1e-4


@pytest.mark.slow
def test_program_accepts_reference(capsys):
    assert check_vectors.main([str(TESTS / "vectors")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(NETWORK_VECTORS)
    assert all(" ok " in line for line in printed)


@pytest.mark.slow
def test_program_refuses_perturbed_vector(tmp_path, capsys):
    for name in ("ddpmpp_vp.npz", "ncsnpp_ve.npz"):
        shutil.copy(TESTS / "vectors" / name, tmp_path)
    with np.load(tmp_path / "ncsnpp_ve.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["denoised"] = arrays["denoised"] + np.float32(1e-3)
    np.savez(tmp_path / "ncsnpp_ve.npz", **arrays)
    assert check_vectors.main([str(tmp_path)]) == 1
    good, bad = capsys.readouterr().out.splitlines()
    assert " ok " in good
    assert "ddpmpp_vp.npz" in good
    assert " BAD " in bad
    assert "ncsnpp_ve.npz" in bad


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["empty", "missing", "no networks"])
def test_program_refuses_folder_without_vectors(tmp_path, capsys, kind):
    folder = tmp_path / "vectors"
    if kind != "missing":
        folder.mkdir()
    if kind == "no networks":
        shutil.copy(TESTS / "vectors" / "losses.npz", folder)
    assert check_vectors.main([str(folder)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {folder}: ")


# The paper's sizes and costs


def millions(labels: int = 0, side: int = 32, **network) -> float:
    with torch.device("meta"):
        return sum(p.numel() for p in UNet(Network(**network), side, 3, labels).parameters()) / 1e6


@pytest.mark.parametrize(
    ("expected", "digits", "arguments"),
    [
        (35.13, 2, {}),
        (35.13, 2, {"side": 16, "attention": [8]}),
        (35.13, 2, {"side": 8, "attention": [4]}),
        (35.13, 2, {"embedding": "fourier"}),
        (35.127, 3, {"labels": 10}),
        (35.25, 2, {"labels": 1000}),
        (35.79, 2, {"architecture": "ncsnpp"}),
        (55.73, 2, {"blocks": 4}),
        (62.13, 2, {"blocks": 4, "labels": 50_000}),
        (79.0, 1, {"channels": 192}),
        (140.4, 1, {"channels": 256}),
        (219.3, 1, {"channels": 320}),
        *(
            (size, 1, {"blocks": blocks})
            for blocks, size in enumerate([35.1, 45.4, 55.7, 66.0, 76.3, 86.6, 96.9, 107.3, 117.6, 127.9, 138.2], 2)
        ),
    ],
)
def test_parameters_equal_the_papers(expected, digits, arguments):
    assert round(millions(**arguments), digits) == expected


def test_labels_cost_128_parameters_each_and_a_bias():
    assert millions(labels=10) - millions() == pytest.approx(128 * 11 / 1e6, abs=1e-12)


# Layers


@pytest.mark.parametrize(("height", "width"), [(3, 5), (1, 7), (4, 4)])
@torch.no_grad()
def test_attention_equals_softmax_over_pixels(height, width):
    """Tokens, channels, height and width all differ, so that a missing transpose changes the result."""
    torch.manual_seed(0)
    layer = Attention(12).double()
    torch.nn.init.normal_(layer.out.weight, std=0.3)
    torch.nn.init.normal_(layer.qkv.weight, std=0.5)
    x = torch.randn(2, 12, height, width, dtype=torch.float64)
    q, k, v = layer.qkv(layer.norm(x)).flatten(2).split(12, dim=1)  # (B, C, tokens)
    expected = torch.empty_like(q)
    for image in range(2):
        for token in range(height * width):
            logits = torch.stack([q[image, :, token] @ k[image, :, other] for other in range(height * width)])
            expected[image, :, token] = v[image] @ (logits / math.sqrt(12)).softmax(0)
    expected = (x + layer.out(expected.unflatten(2, (height, width)))) * math.sqrt(0.5)
    assert (layer(x) - expected).abs().max() < 1e-10


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("limit", [0, 10**9], ids=["convolution", "matrix product"])
def test_pointwise_layers_are_convolutions_both_ways(monkeypatch, limit, layout):
    monkeypatch.setattr(layers, "SMALL_PRODUCT", limit)
    torch.manual_seed(0)
    layer = convolution(6, 10, kernel=1)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(3, 6, 4, 5).contiguous(memory_format=layout).requires_grad_()
    weight, bias = (value.detach().double().requires_grad_() for value in (layer.weight, layer.bias))
    exact_x = x.detach().double().requires_grad_()
    exact = F.conv2d(exact_x, weight, bias)
    upstream = torch.randn(3, 10, 4, 5)
    output = layer(x)
    output.backward(upstream)
    exact.backward(upstream.double())
    for ours, theirs in ((output, exact), (x.grad, exact_x.grad), (layer.weight.grad, weight.grad),
                         (layer.bias.grad, bias.grad)):  # fmt: skip
        assert torch.allclose(ours.double(), theirs, rtol=1e-5, atol=1e-5)


def test_pointwise_layers_choose_by_their_size():
    class Operators(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    layer = convolution(64, 64, kernel=1)
    for pixels, convolves in ((16, False), (32, True)):  # 1 and 4 million products
        seen: list[str] = []
        with Operators(), torch.no_grad():
            layer(torch.zeros(1, 64, pixels, pixels))
        assert ("convolution" in seen) == convolves
        assert ("mm" in seen) != convolves


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_resampling_keeps_constants_inside(taps, direction):
    out = Resample(direction, taps)(torch.full((1, 2, 8, 8), 3.0))
    assert out.shape[-1] == (16 if direction == "up" else 4)
    assert (out[..., 1:-1, 1:-1] - 3).abs().max() < 1e-6  # the border of the wide filter sees zeros


@pytest.mark.parametrize("channels", [4, 6, 8, 12, 36, 100, 128, 130, 384, 4096])
def test_normalization_divides_channels(channels):
    groups = normalization(channels).num_groups
    assert channels % groups == 0
    assert 1 <= groups <= 32
    assert groups == 1 or channels // groups >= 4


def test_label_embedding_is_a_scaled_linear_layer_on_one_hot():
    torch.manual_seed(0)
    layer = LabelEmbedding(7, 5)
    torch.nn.init.normal_(layer.bias)
    labels = torch.tensor([0, 6, 3, 3])
    expected = (F.one_hot(labels, 7).float() * math.sqrt(7)) @ layer.weight + layer.bias
    assert (layer(labels) - expected).abs().max() < 1e-6


def test_vector_embedding_is_a_linear_layer_on_the_rows_of_its_table():
    torch.manual_seed(0)
    table = torch.randn(7, 3)
    layer = VectorEmbedding(table, 5)
    torch.nn.init.normal_(layer.bias)
    labels = torch.tensor([0, 6, 3, 3])
    assert (layer(labels) - (table[labels] @ layer.weight.T + layer.bias)).abs().max() < 1e-6
    assert set(layer.state_dict()) == {"weight", "bias"}  # the table belongs to the subset
    assert layer.to(torch.bfloat16)(labels).dtype == torch.bfloat16


class Sizes(TorchDispatchMode):
    """Elements of the largest tensor that an operator returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.numel())
        return result


def test_many_labels_cost_one_row_each_and_no_one_hot():
    network = UNet(small(), 8, 1, 50_000)
    without = UNet(small(), 8, 1)
    extra = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in without.parameters())
    assert extra == 50_001 * 8
    assert 4 * extra < 2e6  # bytes
    x, noise = inputs(2)
    with torch.no_grad(), Sizes() as sizes:
        network(x, noise, torch.tensor([0, 49_999]))
    assert 0 < sizes.largest < 50_000


def test_label_changes_output():
    network = awake(UNet(small(), 8, 1, 3))
    x, noise = inputs(2)
    first, second = (network(x, noise, torch.tensor(labels)) for labels in ([0, 1], [0, 2]))
    assert torch.equal(first[0], second[0])
    assert (first[1] - second[1]).abs().max() > 1e-3


def test_missing_label_is_an_error():
    with pytest.raises(ValueError, match="labels"):
        UNet(small(), 8, 1, 3)(*inputs())


@pytest.mark.parametrize("label", [3, -2])  # -1 stands for no label
def test_label_out_of_range_is_an_error(label):
    with pytest.raises(IndexError):
        UNet(small(), 8, 1, 3)(*inputs(1), torch.tensor([label]))


def test_surplus_label_is_an_error():
    with pytest.raises(ValueError, match="labels"):
        UNet(small(), 8, 1)(*inputs(), torch.tensor([0, 1, 2]))


# Skip connections


@pytest.mark.parametrize("architecture", ["ddpmpp", "ncsnpp"])
def test_all_skips_kept_is_the_default(architecture):
    kept = awake(UNet(small(architecture=architecture, skips=[1] * 4), 8, 1))
    default = awake(UNet(small(architecture=architecture), 8, 1))
    default.load_state_dict(kept.state_dict())
    assert torch.equal(kept(*inputs()), default(*inputs()))


@pytest.mark.slow
@pytest.mark.parametrize("cut", range(4))
def test_each_flag_cuts_its_own_skip(cut):
    """Flags follow the encoder: the decoder's blocks that concatenate use them from the last to the first.

    The columns of a block's projection that see the skip get no gradient where it is cut, and some where it is kept.
    """
    flags = [int(index != cut) for index in range(4)]
    whole, network = awake(UNet(small(), 8, 1)), awake(UNet(small(skips=flags), 8, 1))
    assert sum(p.numel() for p in whole.parameters()) == sum(p.numel() for p in network.parameters())
    output = network(*inputs())
    assert (output - whole(*inputs())).abs().max() > 1e-3
    output.square().sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    taken = {"0.2": 16, "0.3": 8, "1.1": 8, "1.2": 8}  # blocks that join a skip, in order, and its width
    seen = [float(gradients[f"decoder.{b}.project.weight"][:, -width:].abs().max()) for b, width in taken.items()]
    assert [gradient > 0 for gradient in reversed(seen)] == [bool(flag) for flag in flags]


def test_no_skip_at_all_still_runs():
    network = awake(UNet(small(skips=[0] * 4), 8, 1))
    assert torch.isfinite(network(*inputs())).all()


# Layouts, dropout


@pytest.mark.parametrize("architecture", ["ddpmpp", "ncsnpp"])
def test_memory_layout_does_not_change_the_output(architecture):
    network = awake(UNet(small(architecture=architecture), 8, 3)).eval()
    x, noise = inputs(4, 3)
    with torch.no_grad():
        plain = network(x, noise)
        last = network.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), noise)
    assert (plain - last).abs().max() < 1e-5 * max(1, float(plain.abs().max()))


def test_dropout_acts_in_training_only():
    network = awake(UNet(small(dropout=0.5), 8, 1))
    x, noise = inputs()
    network.train()
    assert not torch.equal(network(x, noise), network(x, noise))
    network.eval()
    assert torch.equal(network(x, noise), network(x, noise))
    without = awake(UNet(small(dropout=0.0), 8, 1)).train()
    assert torch.equal(network(x, noise), without(x, noise))


@pytest.mark.parametrize("labels", [0, 4])
def test_images_of_a_batch_do_not_see_each_other(labels):
    network = awake(UNet(small(), 8, 1, labels)).eval()
    x, noise = inputs(3)
    given = torch.tensor([0, 3, 1]) if labels else None
    together = network(x, noise, given)
    for row in range(3):
        alone = network(x[row : row + 1], noise[row : row + 1], None if given is None else given[row : row + 1])
        assert (alone[0] - together[row]).abs().max() < 1e-5
