"""The catalogue of studies at the embedded scale: every study really trains, samples and scores on the digits."""

from pathlib import Path

import numpy as np
import pytest
import torch

from emmeter.data import subset
from emmeter.diffusion.optimum import OptimalDenoiser
from emmeter.diffusion.preconditioning import to_unit
from emmeter.diffusion.sampling import draws, generate, noise_levels
from emmeter.measure.criterion import mirrored_neighbours, neighbours
from emmeter.pipeline.index import index_of
from emmeter.settings.configuration import load, read
from emmeter.settings.keys import key
from emmeter.settings.studies import Arm
from emmeter.training.trainer import Trainer, build

ROOT = Path(__file__).parents[2]
SETTINGS = read(load(folder=ROOT))
INDEX = index_of(SETTINGS, ROOT / "results")
PAPER = {  # every experiment of the paper, then what its switches and readers ask for
    "training_size", "optimum", "data_dimension", "class_count", "intra_diversity", "width", "depth", "time_embedding",
    "skip_number", "skip_location", "skip_number_ncsnpp", "skip_location_ncsnpp", "batch_size", "weight_decay", "ema",
    "conditioning", "random_labels", "unique_labels", "unique_labels_full",
    "duplication",
    "learning_rate", "dropout", "augmentation", "optimizer", "noise_schedule", "objective", "transformer", "precision",
    "mitigation", "sampler_steps", "training_length",
}  # fmt: skip


def test_every_experiment_is_a_study():
    assert {study.name for study in SETTINGS.studies} == PAPER


def test_no_study_is_impossible_on_the_digits():
    assert INDEX.impossible == {}


def test_all_skip_masks_of_the_paper_are_there():
    masks = {tuple(arm.setup.network.skips or ()) for arm in INDEX.study("skip_number").arms}
    assert len(masks) == 22  # all nine kept; of the three at each of three resolutions one, two or three
    assert all(len(mask) == 9 and sum(mask) <= 3 for mask in masks if mask)
    # Only connections of one resolution are kept together.
    assert all(len({i // 3 for i, flag in enumerate(mask) if flag}) == 1 for mask in masks if mask)


def changed_most(study: str) -> Arm:
    """The arm whose settings differ from the study's first arm in the most values."""
    first, *others = INDEX.study(study).arms

    def differences(arm: Arm) -> int:
        sections = ("data", "network", "diffusion", "training", "sampling", "scoring")
        pairs = [(getattr(first.setup, s).model_dump(), getattr(arm.setup, s).model_dump()) for s in sections]
        return sum(a[name] != b[name] for a, b in pairs for name in a)

    return max([*others, first], key=differences)


@pytest.mark.slow
@pytest.mark.parametrize("study", sorted(PAPER))
def test_an_arm_of_every_study_trains_and_is_scored(study):
    setup = changed_most(study).setup
    n = next((n for n in INDEX.sizes[key("emm", setup)] if n >= 20), INDEX.sizes[key("emm", setup)][-1])
    drawn = subset.draw(setup, n, 0)
    torch.manual_seed(0)
    labels = torch.from_numpy(np.unique(drawn.labels)) if drawn.label_count else None
    latents = draws(4, drawn.images.shape[1:], labels, 0)
    if setup.diffusion.denoiser == "optimum":
        denoise = OptimalDenoiser(to_unit(torch.from_numpy(drawn.images)))
        levels = noise_levels(setup.sampling)
    else:
        denoise = build(setup, drawn.images.shape[1:], drawn.label_count).train()
        trainer = Trainer(setup, n, 1, denoise, drawn, torch.device("cpu"))
        before = trainer.parameters.values.clone()
        losses = [trainer.advance().item() for _ in range(3)]  # the first step has learning rate 0
        assert np.isfinite(losses).all()
        assert not torch.equal(before, trainer.parameters.values)
        levels = noise_levels(setup.sampling, denoise.kind.sigma_min, denoise.kind.sigma_max)
        denoise.eval()
    images = generate(denoise, latents, levels, 4, torch.device("cpu")).numpy()
    assert images.shape == (4, *drawn.images.shape[1:])
    search = mirrored_neighbours if setup.scoring.mirrored else neighbours
    nearest = search(images, drawn.images, drawn.groups, 2)
    assert (np.diff(nearest.squared, axis=1) >= 0).all()
