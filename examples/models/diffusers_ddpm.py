"""Denoising diffusion with the parts of Hugging Face's diffusers: UNet2DModel, DDPMScheduler, sampled by DDIM.

``uv run --with diffusers snakemake ...`` installs diffusers, which the project itself does not need.
"""

import torch
from contract import job
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from torch import Generator, Tensor

STEPS = 50  # of the sampler


def main() -> None:
    run = job(__doc__, train=32_000, batch=32, rate=3e-3, width=16)
    channels, side = run.images.shape[1:3]
    network = UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(run.options.width, 2 * run.options.width),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        num_class_embeds=run.classes or None,
    )
    process = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")

    def loss(x: Tensor, labels: Tensor | None, generator: Generator) -> Tensor:
        noise = torch.randn(x.shape, generator=generator)
        times = torch.randint(process.config.num_train_timesteps, (len(x),), generator=generator)
        predicted = network(process.add_noise(x, noise, times), times, labels).sample
        return (predicted - process.get_velocity(x, noise, times)).square().mean()

    run.train(network, loss)
    sampler = DDIMScheduler.from_config(process.config, timestep_spacing="trailing", clip_sample=True)
    sampler.set_timesteps(STEPS)
    x, labels = run.noise()
    with torch.no_grad():
        for time in sampler.timesteps:
            x = sampler.step(network(x, time, labels).sample, time, x).prev_sample
    run.write(x, network)


if __name__ == "__main__":
    main()
