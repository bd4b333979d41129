"""A variational autoencoder (Kingma and Welling 2014) in plain PyTorch: no diffusion model, under the same contract."""

import itertools

import torch
from contract import job
from torch import Generator, Tensor, nn


def perceptron(*widths: int) -> nn.Sequential:
    layers = [layer for pair in itertools.pairwise(widths) for layer in (nn.Linear(*pair), nn.SiLU())]
    return nn.Sequential(*layers[:-1])


def main() -> None:
    run = job(__doc__, train=256_000, batch=64, rate=2e-3, width=256, latent=4, noise=0.3)
    options, classes, shape = run.options, run.classes, run.images.shape[1:]
    # A label enters as further inputs, one for each class.
    encoder = perceptron(shape.numel() + classes, options.width, options.width, 2 * options.latent)
    decoder = perceptron(options.latent + classes, options.width, options.width, options.width, shape.numel())
    model = nn.ModuleList([encoder, decoder])

    def given(x: Tensor, labels: Tensor | None) -> Tensor:
        return x if labels is None else torch.cat([x, nn.functional.one_hot(labels, classes)], dim=1)

    def loss(x: Tensor, labels: Tensor | None, generator: Generator) -> Tensor:
        mean, log_sd = encoder(given(x.flatten(1), labels)).chunk(2, dim=1)
        latent = mean + log_sd.exp() * torch.randn(mean.shape, generator=generator)
        error = (decoder(given(latent, labels)) - x.flatten(1)).square().sum(dim=1)
        divergence = (mean.square() + (2 * log_sd).exp() - 1).sum(dim=1) / 2 - log_sd.sum(dim=1)
        return (error / (2 * options.noise**2) + divergence).mean() / shape.numel()

    run.train(model, loss)
    noise, labels = run.noise()
    with torch.no_grad():
        run.write(decoder(given(noise.flatten(1)[:, : options.latent], labels)).view(-1, *shape), model)


if __name__ == "__main__":
    main()
