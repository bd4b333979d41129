"""Flow matching with a transformer, in plain PyTorch: a trainer that keeps the contract of docs/own_model.md.

Rectified flow (Liu et al. 2023; Lipman et al. 2023): the network predicts the velocity from images to noise.  The
transformer has patches of 2x2 pixels and adaptive layer norms (DiT, Peebles and Xie 2023).
"""

import itertools

import torch
from contract import Job, job
from torch import Generator, Tensor, nn

WIDTH, DEPTH, HEADS, PATCH, STEPS = 96, 4, 4, 2, 24  # STEPS of Heun's method


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.modulation = nn.Linear(WIDTH, 6 * WIDTH)
        nn.init.zeros_(self.modulation.weight)  # the block begins as the identity
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:  # (B, tokens, WIDTH), (B, WIDTH)
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, dim=2)
        y = self.norm(x) * (1 + scale) + shift
        x = x + gate * self.attention(y, y, y, need_weights=False)[0]
        return x + gate2 * self.mlp(self.norm(x) * (1 + scale2) + shift2)


class Velocity(nn.Module):
    def __init__(self, channels: int, side: int, classes: int):
        super().__init__()
        self.side = side
        self.patches = nn.Conv2d(channels, WIDTH, PATCH, PATCH)
        self.places = nn.Parameter(0.5 * torch.randn(1, (side // PATCH) ** 2, WIDTH))
        self.time = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.labels = nn.Embedding(max(classes, 1), WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.out = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, channels * PATCH**2))

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:  # time: (B,), 0 image to 1 noise
        angles = 100 * time[:, None] * 1e-2 ** torch.linspace(0, 1, WIDTH // 2)
        condition = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        condition = nn.functional.silu(condition if labels is None else condition + self.labels(labels))
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            tokens = block(tokens, condition)
        return nn.functional.fold(self.out(tokens).transpose(1, 2), self.side, PATCH, stride=PATCH)


def sample(run: Job, network: Velocity) -> Tensor:
    x, labels = run.noise()
    times = torch.linspace(1, 0, STEPS + 1)
    for now, after in itertools.pairwise(times):
        slope = network(x, now.expand(len(x)), labels)
        slope = (slope + network(x + (after - now) * slope, after.expand(len(x)), labels)) / 2
        x = x + (after - now) * slope
    return x


def main() -> None:
    run = job(__doc__, train=64_000, batch=32, rate=2e-3)
    network = Velocity(*run.images.shape[1:3], run.classes)

    def loss(x: Tensor, labels: Tensor | None, generator: Generator) -> Tensor:
        noise, time = torch.randn(x.shape, generator=generator), torch.randn(len(x), generator=generator).sigmoid()
        share = time.view(-1, 1, 1, 1)
        return (network((1 - share) * x + share * noise, time, labels) - (noise - x)).square().mean()

    run.train(network, loss)
    with torch.no_grad():
        run.write(sample(run, network), network)


if __name__ == "__main__":
    main()
