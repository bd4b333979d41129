"""The sample stage: images of every snapshot or of the optimum, and one-line errors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from emmeter.data.subset import Subset, save
from emmeter.diffusion.sampling import SEEDS_PER_REPLICATE, draws, generate, guided, noise_levels
from emmeter.errors import StageError
from emmeter.files import records
from emmeter.files.npz import write_npz
from emmeter.files.records import SamplingRecord
from emmeter.machine import device
from emmeter.settings.keys import key
from emmeter.stages import sample as stage
from emmeter.stages.sample import sample
from emmeter.training import snapshots
from emmeter.training.trainer import Trainer, build
from networks import awake
from one_run import Pipeline, messages

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


def random_subset(labels: int = 0) -> Subset:
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


def run_with(folder: Path, labels: int = 0, replicate: int = 0, **changes: dict[str, Any]) -> Pipeline:
    """A run of twelve random images, whose subset is stored."""
    run = Pipeline(folder / "results", settings(**changes), N, replicate)
    save(run.file("subset"), random_subset(labels))
    return run


def write_snapshots(run: Pipeline, labels: int = 0) -> list[dict[str, Tensor]]:
    """Write real snapshots of two steps of training.  Returns their weights, for each snapshot and decay in turn."""
    denoiser = awake(build(run.setup, (1, 8, 8), labels)).train()
    trainer = Trainer(run.setup, N, 0, denoiser, random_subset(labels), CPU)
    folder = run.folder("train")
    weights = []
    for index in range(2):
        trainer.advance()
        trainer.averages[-1].mul_(0.9)  # so that decays differ visibly
        snapshots.keep(folder, index, trainer.averaged())
        weights += trainer.averaged()
    description = {
        "key": key("train", run.setup),
        "shares": run.setup.training.snapshots,
        "ema_decays": run.setup.training.ema_decays,
        "images_seen": [40, 80],
    }
    snapshots.join(folder, run.file("train"), description)
    return weights


def arrays(run: Pipeline) -> dict[str, np.ndarray]:
    with np.load(run.file("sample"), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def one_error(capsys) -> str:
    lines = messages(capsys.readouterr().err)
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("labels", [0, 3])
@pytest.mark.parametrize("decay", [None, 0.5])
def test_every_snapshot_is_sampled(tmp_path, labels, decay):
    run = run_with(tmp_path, labels, sampling={"images": 6, "steps": 4, "ema_decay": decay})
    weights = write_snapshots(run, labels)
    assert run.call("sample") == 0
    samples = arrays(run)
    assert samples["images"].shape == (2, 6, 1, 8, 8)
    assert samples["images"].dtype == np.uint8
    assert samples["shares"].tolist() == [0.5, 1.0]
    assert samples["images_seen"].tolist() == [40, 80]
    assert samples["seeds"].tolist() == list(range(6))
    assert len(samples["labels"]) == (6 if labels else 0)
    assert set(samples["labels"]) <= set(range(labels))
    drawn = draws(6, (1, 8, 8), torch.arange(labels) if labels else None, 0)
    network = build(run.setup, (1, 8, 8), labels).eval()
    for snapshot in range(2):
        network.network.load_state_dict(weights[2 * snapshot + (decay == 0.5)])
        expected = generate(network, drawn, noise_levels(run.setup.sampling), 4, CPU)
        assert np.abs(samples["images"][snapshot].astype(int) - expected.int().numpy()).max() <= 1
    record = records.read(run.record("sample"), SamplingRecord)
    assert record["evaluations"] == (2 * 4 - 1) * 6 * 2
    assert record["key"] == key("sample", run.setup)
    assert (run.folder("sample") / "settings.yaml").is_file()


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_samples_are_guided(tmp_path, guidance):
    labelled = {"data": {"source": "digits", "labels": "random-3"}, "training": {"label_dropout": 0.5}}
    changes = labelled | {"sampling": {"images": 6, "steps": 4, "guidance": guidance}}
    run = run_with(tmp_path, 3, **changes)
    weights = write_snapshots(run, 3)
    assert run.call("sample") == 0
    denoiser = build(run.setup, (1, 8, 8), 3).eval()
    denoiser.network.load_state_dict(weights[2])
    drawn = draws(6, (1, 8, 8), torch.arange(3), 0)
    expected = generate(guided(denoiser, guidance), drawn, noise_levels(run.setup.sampling), 4, CPU)
    assert np.abs(arrays(run)["images"][1].astype(int) - expected.int().numpy()).max() <= 1
    evaluations = records.read(run.record("sample"), SamplingRecord)["evaluations"]
    assert evaluations == (2 if guidance == 2.5 else 1) * (2 * 4 - 1) * 6 * 2
    unguided = run_with(tmp_path, 3, **labelled)
    assert (run.folder("sample") == unguided.folder("sample")) == (guidance == 1)
    assert run.folder("train") == unguided.folder("train")


@pytest.mark.parametrize("pays", [True, False])
def test_cudnn_searches_where_evaluations_are_many(tmp_path, monkeypatch, pays):
    """7 evaluations of 2 snapshots in one batch, in two of 3 images, and in one of 4 with a rest."""
    seen = []
    monkeypatch.setattr(stage, "generate", lambda *a: seen.append(torch.backends.cudnn.benchmark) or generate(*a))
    run = run_with(tmp_path)
    write_snapshots(run)
    drawn = draws(6, (1, 8, 8), None, 0)
    for batch, count in ((500, 14), (3, 28), (4, 14)):
        monkeypatch.setattr(device, "SEARCH", count if pays else count + 1)
        stage.from_snapshots(run.setup, random_subset(), run.file("train"), drawn, batch, CPU)
    assert seen == [pays] * 6


def test_the_training_state_is_removed_after_success(tmp_path, capsys):
    run = run_with(tmp_path)
    run.state.mkdir(parents=True)
    (run.state / "state.pt").touch()
    run.folder("train").mkdir(parents=True)
    run.file("train").write_bytes(b"damaged")
    assert run.call("sample") == 1
    assert "snapshots" in one_error(capsys)
    assert (run.state / "state.pt").exists()  # the snapshots can be made again from it
    write_snapshots(run)
    assert run.call("sample") == 0
    assert not (run.results / "state").exists()
    assert run.call("sample") == 0  # as for another arm that shares the training


def test_the_same_bytes_twice(tmp_path):
    run = run_with(tmp_path)
    write_snapshots(run)
    assert run.call("sample") == 0
    first = run.file("sample").read_bytes()
    assert run.call("sample") == 0
    assert run.file("sample").read_bytes() == first


def test_noise_levels_stay_in_the_range_of_ve(tmp_path):
    run = run_with(tmp_path, diffusion={"preconditioning": "ve"})
    weights = write_snapshots(run)
    assert run.call("sample") == 0
    network = build(run.setup, (1, 8, 8), 0).eval()
    network.network.load_state_dict(weights[2])
    levels = noise_levels(run.setup.sampling, 0.02, 100)
    expected = generate(network, draws(6, (1, 8, 8), None, 0), levels, 4, CPU)
    assert np.abs(arrays(run)["images"][1].astype(int) - expected.int().numpy()).max() <= 1


@pytest.mark.parametrize("labels", [0, N])
def test_the_optimum_needs_no_snapshots_and_copies(tmp_path, labels):
    run = run_with(tmp_path, labels, 1, diffusion={"denoiser": "optimum"}, sampling={"images": 30, "steps": 18})
    assert run.call("sample") == 0
    samples = arrays(run)
    assert samples["images"].shape == (1, 30, 1, 8, 8)
    assert (samples["shares"].tolist(), samples["images_seen"].tolist()) == ([1.0], [0])
    assert samples["seeds"][0] == SEEDS_PER_REPLICATE
    train = random_subset(labels).images
    copies = [np.flatnonzero((train == image).all(axis=(1, 2, 3))) for image in samples["images"][0]]
    assert all(len(copy) == 1 for copy in copies)
    if labels:  # with unique labels, each image is the one of its label
        assert [int(copy[0]) for copy in copies] == samples["labels"].tolist()


def test_a_network_needs_snapshots(tmp_path):
    run = run_with(tmp_path)
    output, record = run.file("sample"), run.record("sample")
    with pytest.raises(StageError, match=r"^--snapshots: is needed, because diffusion.denoiser = 'network'$"):
        sample(run.setup, run.file("subset"), n=N, replicate=0, output=output, record=record)
    assert not output.exists()


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "garbage", "no metadata", "another kind"])
def test_damaged_snapshots_are_one_line(tmp_path, capsys, damage):
    run = run_with(tmp_path)
    path = run.file("train")
    path.parent.mkdir(parents=True)
    if damage in ("truncated", "garbage"):
        write_snapshots(run)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"\x7f" * len(whole))
    elif damage == "empty":
        path.touch()
    elif damage == "no metadata":
        save_file({"0/0/x": torch.zeros(1)}, path)
    elif damage == "another kind":
        write_npz(path, x=np.zeros(3))
    assert run.call("sample") == 1
    assert str(path) in one_error(capsys)
    assert not run.folder("sample").exists()


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
def test_snapshots_of_other_settings_are_one_line(tmp_path, capsys, trained, sampled, labels):
    source = run_with(tmp_path / "trained", labels[0], **trained)
    write_snapshots(source, labels[0])
    run = run_with(tmp_path / "sampled", labels[1], **sampled)
    path = run.file("train")
    path.parent.mkdir(parents=True)
    path.write_bytes(source.file("train").read_bytes())
    assert run.call("sample") == 1
    assert str(path) in one_error(capsys)
    assert not run.folder("sample").exists()
