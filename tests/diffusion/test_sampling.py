"""Sampler, seeds and the sample stage (test_optimum.py holds the reference vectors)."""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from emmeter.command import command
from emmeter.data.subset import Subset, save
from emmeter.diffusion.preconditioning import EDM, VE, VP, Denoiser
from emmeter.diffusion.sampling import SEEDS_PER_REPLICATE, draws, generate, heun, noise_levels
from emmeter.files.npz import write_npz
from emmeter.settings.keys import key
from emmeter.settings.sections import Sampling, Setup
from emmeter.settings.validation import read_setup
from emmeter.stages import sample as sample_stage
from emmeter.training import snapshots
from emmeter.training.optimizer import FlatParameters
from emmeter.training.trainer import Trainer, build

CPU = torch.device("cpu")
N = 12


def settings(**changes: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, dict[str, Any]] = {
        "data": {"source": "digits"},
        "network": {"channels": 8, "multipliers": [1], "blocks": 1, "attention": [], "dropout": 0.0},
        "diffusion": {"preconditioning": "edm"},
        "training": {"duration": "80 images", "batch_size": 10, "ema_decays": [0.9, 0.5], "snapshots": [0.5, 1.0]},
        "sampling": {"images": 6, "steps": 4},
    }
    for section, values in changes.items():
        content[section] = content.get(section, {}) | values
    return content


def subset_of(labels: int = 0) -> Subset:
    random = np.random.default_rng(0)
    return Subset(
        images=random.integers(0, 256, (N, 1, 8, 8), np.uint8),
        labels=np.arange(N) % labels if labels else np.zeros(N, np.int64),
        label_count=labels,
        indices=np.arange(N),
        groups=np.arange(N),
        held_out=np.zeros((0, 1, 8, 8), np.uint8),
        held_out_labels=np.zeros(0, np.int64),
    )


def scrambled(setup: Setup, labels: int = 0, seed: int = 0) -> Denoiser:
    """A denoiser whose weights are far from their near-zero initialization."""
    denoiser = build(setup, (1, 8, 8), labels).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in denoiser.network.parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.2
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return denoiser


# Noise levels


def test_noise_levels_run_from_high_to_low_and_end_in_zero():
    levels = noise_levels(Sampling())
    assert levels.dtype == torch.float64
    assert len(levels) == 19
    assert float(levels[0]) == pytest.approx(80, rel=1e-12)
    assert float(levels[-2]) == pytest.approx(0.002, rel=1e-12)
    assert float(levels[-1]) == 0
    assert (levels.diff() < 0).all()
    roots = levels[:-1] ** (1 / 7)
    assert (roots.diff() - roots.diff()[0]).abs().max() < 1e-12


def test_fewest_steps():
    assert noise_levels(Sampling(steps=2)).tolist() == pytest.approx([80, 0.002, 0], rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [(VP(), VP().sigma_min, VP().sigma_max), (VE(), 0.02, 100.0), (EDM(), 1e-5, 1000.0)],
)
def test_noise_levels_stay_within_what_the_denoiser_knows(kind, low, high):
    wide = noise_levels(Sampling(sigma_min=1e-5, sigma_max=1000.0), kind.sigma_min, kind.sigma_max)
    assert wide[[0, -2]].tolist() == pytest.approx([high, low], rel=1e-9)
    usual = noise_levels(Sampling(), kind.sigma_min, kind.sigma_max)
    assert usual[[0, -2]].tolist() == pytest.approx([80, 0.02 if isinstance(kind, VE) else 0.002], rel=1e-9)


# The sampler on an ODE with a known solution: images normal with standard deviation s around 0


def gaussian(spread: float):
    def denoise(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return x * (spread**2 / (spread**2 + sigma**2))[:, None, None, None]

    return denoise


def sampler_error(steps: int) -> float:
    """Largest relative deviation from x(0) = x(sigma_max) s / sqrt(s^2 + sigma_max^2)."""
    levels = noise_levels(Sampling(steps=steps, sigma_min=1e-4, sigma_max=20.0))
    latents = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = latents * 20 / (1 + 20**2) ** 0.5
    return float(((heun(gaussian(1.0), latents, levels) - expected) / expected).abs().max())


def test_sampler_converges_at_second_order():
    """Doubling the steps divides the error by about 4 (the last step's own error, sigma_min^2 / 2, is 5e-9)."""
    errors = [sampler_error(steps) for steps in (20, 40, 80, 160)]
    for coarse, fine in itertools.pairwise(errors):
        assert 3.4 < coarse / fine < 4.8
    assert errors[-1] < 1e-3


def test_sampler_calls_the_denoiser_twice_a_step_but_once_in_the_last():
    calls = []

    def denoise(x, sigma, labels):
        assert x.dtype == torch.float64
        assert sigma.shape == (3,)
        calls.append((float(sigma[0]), labels))
        return torch.zeros_like(x, dtype=torch.float32)

    labels = torch.arange(3)
    levels = noise_levels(Sampling(steps=5))
    images = heun(denoise, torch.ones(3, 1, 2, 2, dtype=torch.float64), levels, labels)
    assert images.dtype == torch.float64
    assert len(calls) == 9
    assert [sigma for sigma, _ in calls] == levels[[0, 1, 1, 2, 2, 3, 3, 4, 4]].tolist()
    assert all(given is labels for _, given in calls)


# Seeds


def test_an_image_does_not_depend_on_how_many_are_drawn():
    in_use = torch.tensor([1, 4, 7])
    few, many = (draws(count, (1, 3, 3), in_use, 2) for count in (5, 40))
    assert torch.equal(few.latents, many.latents[:5])
    assert few.labels is not None
    assert many.labels is not None
    assert torch.equal(few.labels, many.labels[:5])
    assert many.seeds.tolist() == list(range(2 * SEEDS_PER_REPLICATE, 2 * SEEDS_PER_REPLICATE + 40))
    assert len({tuple(row.flatten().tolist()) for row in many.latents}) == 40


def test_latents_are_those_of_the_papers_seeds():
    """Replicate 0: a generator seeded 0, 1, 2, ..., the latent first; labels do not change it."""
    plain, labelled = draws(3, (1, 4, 4), None, 0), draws(3, (1, 4, 4), torch.arange(10), 0)
    assert plain.labels is None
    assert torch.equal(plain.latents, labelled.latents)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        expected = torch.randn(1, 4, 4, generator=generator, dtype=torch.float64)
        assert torch.equal(plain.latents[seed], expected)


def test_replicates_share_no_latent():
    one, two = draws(30, (1, 2, 2), None, 0), draws(30, (1, 2, 2), None, 1)
    assert not set(one.seeds.tolist()) & set(two.seeds.tolist())
    assert not torch.isclose(one.latents[:, None], two.latents[None]).all(dim=(2, 3, 4)).any()


def test_labels_are_uniform_over_those_in_use():
    in_use = torch.tensor([0, 3, 5, 9])
    labels = draws(2000, (1, 1, 1), in_use, 0).labels
    assert labels is not None
    values, counts = labels.unique(return_counts=True)
    assert torch.equal(values, in_use)
    assert chisquare(counts.numpy()).pvalue > 0.01


def test_latents_are_standard_normal():
    latents = draws(500, (1, 4, 4), None, 0).latents
    assert abs(float(latents.mean())) < 0.04  # 3.6 standard errors
    assert abs(float(latents.std()) - 1) < 0.03


# Batches


@pytest.mark.parametrize("labels", [0, 3])
def test_batch_size_does_not_change_images(labels):
    denoiser = scrambled(read_setup(settings()), labels)
    drawn = draws(10, (1, 8, 8), torch.arange(labels) if labels else None, 0)
    levels = noise_levels(Sampling(steps=6))
    whole = generate(denoiser, drawn, levels, 100, CPU)
    assert whole.dtype == torch.uint8
    assert whole.shape == (10, 1, 8, 8)
    assert whole.float().std() > 20  # an image, not a constant
    for batch in (1, 3, 5):
        other = generate(denoiser, drawn, levels, batch, CPU)
        assert (whole.int() - other.int()).abs().max() <= 1


def test_labels_reach_the_network():
    denoiser = scrambled(read_setup(settings()), 3)
    drawn = draws(8, (1, 8, 8), torch.arange(3), 0)
    assert drawn.labels is not None
    changed = type(drawn)(drawn.latents, (drawn.labels + 1) % 3, drawn.seeds)
    one, two = (generate(denoiser, d, noise_levels(Sampling(steps=3)), 8, CPU) for d in (drawn, changed))
    assert (one.int() - two.int()).abs().flatten(1).amax(dim=1).min() > 1


# The stage


class Place:
    """The files of one run in a folder, and the command line of its sample stage."""

    def __init__(self, folder: Path, labels: int = 0, **changes: dict[str, Any]):
        self.folder, self.content, self.labels = folder, settings(**changes), labels
        self.setup = read_setup(self.content)
        self.subset, self.snapshots = folder / "subset.npz", folder / "snapshots.safetensors"
        self.output, self.record = folder / "out" / "samples.npz", folder / "out" / "sampling.json"
        save(self.subset, subset_of(labels))

    def write_snapshots(self) -> list[dict[str, Tensor]]:
        """Real snapshots of two steps of training: their weights, for snapshot and decay."""
        denoiser = scrambled(self.setup, self.labels).requires_grad_(True).train()
        trainer = Trainer(self.setup, N, 0, denoiser, subset_of(self.labels), CPU)
        weights = []
        for index in range(2):
            trainer.advance()
            trainer.averages[-1].mul_(0.9)  # so that decays differ visibly
            snapshots.keep(self.folder, index, trainer.averaged())
            weights += trainer.averaged()
        training = self.setup.training
        description = {
            "key": key("train", self.setup),
            "shares": training.snapshots,
            "ema_decays": training.ema_decays,
            "images_seen": [40, 80],
        }
        snapshots.join(self.folder, self.snapshots, description)
        return weights

    def call(
        self, monkeypatch, batch: int = 4, snapshots: bool = True, replicate: int = 0, state: Path | None = None
    ) -> int:
        arguments = ["--settings", json.dumps(self.content), "--key", "abc"]
        arguments += ["--n", str(N), "--replicate", str(replicate)]
        arguments += ["--subset", str(self.subset), "--output", str(self.output), "--record", str(self.record)]
        arguments += ["--batch", str(batch), "--device", "cpu"]
        arguments += ["--snapshots", str(self.snapshots)] if snapshots else []
        arguments += ["--state", str(state)] if state else []
        monkeypatch.setattr(sys, "argv", ["sample", *arguments])
        try:
            command(sample_stage.main)
        except SystemExit as stopped:
            return int(stopped.code or 0)
        return 0

    def samples(self) -> dict[str, np.ndarray]:
        with np.load(self.output, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}


def one_error(capsys) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("labels", [0, 3])
@pytest.mark.parametrize("decay", [None, 0.5])
def test_stage_samples_every_snapshot(tmp_path, monkeypatch, labels, decay):
    place = Place(tmp_path, labels, sampling={"images": 6, "steps": 4, "ema_decay": decay})
    weights = place.write_snapshots()
    assert place.call(monkeypatch) == 0
    found = place.samples()
    assert found["images"].shape == (2, 6, 1, 8, 8)
    assert found["images"].dtype == np.uint8
    assert found["shares"].tolist() == [0.5, 1.0]
    assert found["images_seen"].tolist() == [40, 80]
    assert found["seeds"].tolist() == list(range(6))
    assert len(found["labels"]) == (6 if labels else 0)
    assert set(found["labels"]) <= set(range(labels))
    drawn = draws(6, (1, 8, 8), torch.arange(labels) if labels else None, 0)
    network = build(place.setup, (1, 8, 8), labels).eval()
    for snapshot in range(2):
        network.network.load_state_dict(weights[2 * snapshot + (decay == 0.5)])
        expected = generate(network, drawn, noise_levels(place.setup.sampling), 4, CPU)
        assert np.abs(found["images"][snapshot].astype(int) - expected.int().numpy()).max() <= 1
    record = json.loads(place.record.read_text())
    assert record["evaluations"] == (2 * 4 - 1) * 6 * 2
    assert record["key"] == "abc"
    assert (place.output.parent / "settings.yaml").is_file()


def test_stage_removes_the_training_state_when_it_has_succeeded(tmp_path, monkeypatch, capsys):
    place = Place(tmp_path)
    state = tmp_path / "state" / "key" / "n1-r0"
    state.mkdir(parents=True)
    (state / "state.pt").touch()
    place.snapshots.write_bytes(b"damaged")
    assert place.call(monkeypatch, state=state) == 1
    assert "snapshots" in one_error(capsys)
    assert (state / "state.pt").exists()  # the snapshots can be made again from it
    place.write_snapshots()
    assert place.call(monkeypatch, state=state) == 0
    assert not (tmp_path / "state").exists()
    assert place.call(monkeypatch, state=state) == 0  # as for another arm that shares the training


def test_stage_gives_the_same_bytes_twice(tmp_path, monkeypatch):
    place = Place(tmp_path)
    place.write_snapshots()
    assert place.call(monkeypatch) == 0
    first = place.output.read_bytes()
    assert place.call(monkeypatch) == 0
    assert place.output.read_bytes() == first


def test_stage_clamps_to_the_range_of_ve(tmp_path, monkeypatch):
    place = Place(tmp_path, diffusion={"preconditioning": "ve"}, training={"ema_decays": [0.9, 0.5]})
    weights = place.write_snapshots()
    assert place.call(monkeypatch) == 0
    network = build(place.setup, (1, 8, 8), 0).eval()
    network.network.load_state_dict(weights[2])
    levels = noise_levels(place.setup.sampling, 0.02, 100)
    expected = generate(network, draws(6, (1, 8, 8), None, 0), levels, 4, CPU)
    assert np.abs(place.samples()["images"][1].astype(int) - expected.int().numpy()).max() <= 1


@pytest.mark.parametrize("labels", [0, N])
def test_optimum_needs_no_snapshots_and_copies(tmp_path, monkeypatch, labels):
    place = Place(tmp_path, labels, diffusion={"denoiser": "optimum"}, sampling={"images": 30, "steps": 18})
    assert place.call(monkeypatch, snapshots=False, replicate=1) == 0
    found = place.samples()
    assert found["images"].shape == (1, 30, 1, 8, 8)
    assert (found["shares"].tolist(), found["images_seen"].tolist()) == ([1.0], [0])
    assert found["seeds"][0] == SEEDS_PER_REPLICATE
    train = subset_of(labels).images
    copies = [np.flatnonzero((train == image).all(axis=(1, 2, 3))) for image in found["images"][0]]
    assert all(len(copy) == 1 for copy in copies)
    if labels:  # of unique labels: each image is the one of its label
        assert [int(copy[0]) for copy in copies] == found["labels"].tolist()


def test_network_needs_snapshots(tmp_path, monkeypatch, capsys):
    assert Place(tmp_path).call(monkeypatch, snapshots=False) == 1
    assert "--snapshots" in one_error(capsys)


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "garbage", "no metadata", "another kind"])
def test_damaged_snapshots_are_one_line(tmp_path, monkeypatch, capsys, damage):
    place = Place(tmp_path)
    if damage in ("truncated", "garbage"):
        place.write_snapshots()
        whole = place.snapshots.read_bytes()
        place.snapshots.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"\x7f" * len(whole))
    elif damage == "empty":
        place.snapshots.touch()
    elif damage == "no metadata":
        from safetensors.torch import save_file

        save_file({"0/0/x": torch.zeros(1)}, place.snapshots)
    elif damage == "another kind":
        write_npz(place.snapshots, x=np.zeros(3))
    assert place.call(monkeypatch) == 1
    assert str(place.snapshots) in one_error(capsys)
    assert not place.output.exists()


DEEP = {"network": {"blocks": 2}}


@pytest.mark.parametrize(
    ("trained", "sampled", "labels"),
    [
        pytest.param({}, {"network": {"channels": 12}}, (0, 0), id="wider"),
        pytest.param({}, DEEP, (0, 0), id="deeper"),
        pytest.param(DEEP, {}, (0, 0), id="shallower"),
        pytest.param({}, {"training": {"ema_decays": [0.8]}}, (0, 0), id="other decay"),
        pytest.param({}, {}, (0, 3), id="labels"),
        pytest.param({}, {}, (3, 0), id="no labels"),
    ],
)
def test_snapshots_of_other_settings_are_one_line(tmp_path, monkeypatch, capsys, trained, sampled, labels):
    place = Place(tmp_path, labels[0], **trained)
    place.write_snapshots()
    other = Place(tmp_path, labels[1], **sampled)
    assert other.call(monkeypatch) == 1
    assert str(place.snapshots) in one_error(capsys)
    assert not place.output.exists()


def test_flat_parameters_do_not_change_what_a_denoiser_computes():
    """Sampling builds plain modules, training flat ones: the same weights give the same image."""
    denoiser = scrambled(read_setup(settings()))
    drawn, levels = draws(2, (1, 8, 8), None, 0), noise_levels(Sampling(steps=3))
    before = generate(denoiser, drawn, levels, 2, CPU)
    FlatParameters(denoiser.network)
    assert (before.int() - generate(denoiser, drawn, levels, 2, CPU).int()).abs().max() <= 1
