"""The diffusion transformer: against torch's own encoder layer, its patches and positions, its start, its labels."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from emmeter.diffusion import operations
from emmeter.diffusion.networks import build_network
from emmeter.diffusion.transformer import (
    Transformer,
    TransformerBlock,
    grid_positions,
    modulated,
    patches,
    pixels,
)
from emmeter.settings.sections import Network
from networks import awake


def small(**changes: object) -> Network:
    settings = {"architecture": "dit", "channels": 16, "blocks": 2, "patch": 2, "heads": 4, "dropout": 0.0}
    return Network.model_validate({**settings, **changes})


def images(count: int = 3, channels: int = 1, side: int = 8, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, side, side, generator=generator), torch.randn(count, generator=generator)


# One block


def test_a_block_with_open_gates_is_torchs_encoder_layer():
    """Shift 0, scale 0 and gate 1 make a block a pre-norm encoder layer, which torch implements independently."""
    block = awake(TransformerBlock(16, 4, 0.0)).eval()
    nn.init.zeros_(block.modulation.weight)
    with torch.no_grad():
        block.modulation.bias.copy_(torch.cat([torch.zeros(32), torch.ones(16)] * 2))
    theirs = nn.TransformerEncoderLayer(
        16, 4, 64, 0.0, partial(F.gelu, approximate="tanh"), layer_norm_eps=1e-6, batch_first=True, norm_first=True
    ).eval()
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(block.qkv.weight)
        theirs.self_attn.in_proj_bias.copy_(block.qkv.bias)
        for own, other in (
            (block.project, theirs.self_attn.out_proj),
            (block.widen, theirs.linear1),
            (block.narrow, theirs.linear2),
        ):
            other.weight.copy_(own.weight)
            other.bias.copy_(own.bias)
    tokens, condition = torch.randn(3, 7, 16), torch.randn(3, 16)
    with torch.no_grad():
        assert (block(tokens, condition) - theirs(tokens)).abs().max() < 1e-5


def test_a_condition_shifts_scales_and_gates_each_branch():
    """The modulation has six parts, as in the publication: shift, scale and gate of the attention, then of the MLP."""
    block = awake(TransformerBlock(16, 2, 0.0)).eval()
    tokens, condition = torch.randn(2, 5, 16), torch.randn(2, 16)
    parts = F.linear(condition, block.modulation.weight, block.modulation.bias).unflatten(1, (6, 16))

    def normalized(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(dim=2, keepdim=True)) / (x.var(dim=2, keepdim=True, unbiased=False) + 1e-6).sqrt()

    q, k, v = (
        F.linear(normalized(tokens) * (1 + parts[:, 1, None]) + parts[:, 0, None], weight, bias)
        for weight, bias in zip(block.qkv.weight.chunk(3), block.qkv.bias.chunk(3), strict=True)
    )
    heads = []
    for start in (0, 8):
        part = slice(start, start + 8)
        share = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / 8**0.5, dim=2)
        heads.append(share @ v[..., part])
    middle = tokens + parts[:, 2, None] * block.project(torch.cat(heads, dim=2))
    hidden = F.gelu(block.widen(normalized(middle) * (1 + parts[:, 4, None]) + parts[:, 3, None]), approximate="tanh")
    with torch.no_grad():
        assert (block(tokens, condition) - middle - parts[:, 5, None] * block.narrow(hidden)).abs().max() < 1e-4


def test_a_new_block_is_the_identity():
    tokens = torch.randn(2, 5, 16)
    assert torch.equal(TransformerBlock(16, 4, 0.0)(tokens, torch.randn(2, 16)), tokens)


def test_modulated_tokens_without_condition_are_normalized():
    tokens = modulated(3 + 5 * torch.randn(2, 4, 64), torch.zeros(2, 64), torch.zeros(2, 64))
    assert tokens.mean(dim=2).abs().max() < 1e-5
    assert (tokens.square().mean(dim=2) - 1).abs().max() < 1e-3


# Patches and positions


@pytest.mark.parametrize(("side", "patch", "channels"), [(8, 2, 1), (8, 4, 3), (6, 1, 3), (6, 6, 1)])
def test_patches_and_pixels_are_inverse(side, patch, channels):
    x = torch.arange(2 * channels * side**2, dtype=torch.float32).reshape(2, channels, side, side)
    cut = patches(x, patch)
    assert cut.shape == (2, (side // patch) ** 2, channels * patch**2)
    last = x[1, :, -patch:, -patch:]
    assert torch.equal(cut[1, -1].reshape(channels, patch, patch), last)
    assert torch.equal(pixels(cut, patch, channels), x)
    in_other_order = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(patches(in_other_order, patch), cut)


def test_positions_differ_and_factor_into_row_and_column():
    table = grid_positions(4, 16).reshape(4, 4, 16)
    assert len({tuple(row.tolist()) for row in table.flatten(0, 1)}) == 16
    assert torch.equal(table[2, 0, :8], table[2, 3, :8])
    assert torch.equal(table[0, 1, 8:], table[3, 1, 8:])
    assert table.abs().max() <= 1


def test_without_positions_patches_would_be_exchangeable():
    """The positions are what tells patches apart: with them, a permuted image gives another result."""
    network = awake(Transformer(small(patch=4), 8, 1)).eval()
    x, noise = images(1)
    swapped = torch.cat([x[..., 4:], x[..., :4]], dim=3)
    with torch.no_grad():
        network.positions.zero_()
        out, other = network(x, noise), network(swapped, noise)
        assert (torch.cat([other[..., 4:], other[..., :4]], dim=3) - out).abs().max() < 1e-5
        network.positions.copy_(grid_positions(2, 16))
        other = network(swapped, noise)
        assert (torch.cat([other[..., 4:], other[..., :4]], dim=3) - network(x, noise)).abs().max() > 1e-3


# The network


def test_a_new_network_returns_zeros():
    assert not Transformer(small(), 8, 1)(*images()).any()


def test_noise_levels_and_labels_matter():
    network = awake(Transformer(small(), 8, 1, 3)).eval()
    x, noise = images(1)
    with torch.no_grad():
        outs = [network(x, noise + shift, torch.tensor([label])) for shift in (0, 1) for label in (0, 2)]
    assert all((one - other).abs().max() > 1e-3 for i, one in enumerate(outs) for other in outs[:i])


def test_labels_must_fit_the_network():
    with pytest.raises(ValueError, match="labels must be given to a class-conditional network"):
        Transformer(small(), 8, 1, 3)(*images())
    with pytest.raises(ValueError, match="labels must be given to a class-conditional network"):
        Transformer(small(), 8, 1)(*images(), torch.tensor([0, 1, 2]))


def test_images_of_a_batch_do_not_mix():
    network = awake(Transformer(small(), 8, 3)).eval()
    x, noise = images(4, 3)
    with torch.no_grad():
        whole = network(x, noise)
        for row in range(4):
            assert (network(x[row : row + 1], noise[row : row + 1]) - whole[row]).abs().max() < 1e-5


def test_dropout_acts_in_training_only():
    network = awake(Transformer(small(dropout=0.5), 8, 1))
    x, noise = images()
    with torch.no_grad():
        assert not torch.equal(network(x, noise), network(x, noise))
        network.eval()
        assert torch.equal(network(x, noise), network(x, noise))


def test_operations_and_parameters_follow_from_the_sizes():
    """Per patch and block 12 D^2 products of linear layers and 2 T D of attention; the modulation once per image."""
    width, blocks, count, values = 16, 2, 16, 4
    products = (
        2 * width**2  # the noise level
        + count * values * width * 2  # patches in and out
        + blocks * (6 * width**2 + count * 12 * width**2 + 2 * count**2 * width)
        + 2 * width**2
    )
    parameters = (
        2 * (width**2 + width)
        + values * width + width
        + blocks * (6 * width**2 + 6 * width + 12 * width**2 + 3 * width + width + 4 * width + width)
        + 2 * width**2 + 2 * width
        + width * values + values
    )  # fmt: skip
    assert operations.planned(small(), (1, 8, 8)) == (2 * products, parameters)
    assert parameters == sum(parameter.numel() for parameter in build_network(small(), 8, 1).parameters())
