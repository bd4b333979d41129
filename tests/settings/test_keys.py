"""Keys: frozen for these settings, shared by settings that mean the same, changed by exactly what they depend on."""

import json
from pathlib import Path
from typing import Any

import pytest

from emmeter.commands.showing import leaves
from emmeter.files.layout import arm_folder, run_folder
from emmeter.settings.keys import VERSIONS, ema_decay, key, stage_settings
from emmeter.settings.sections import Setup
from emmeter.settings.validation import read_setup

STAGES = list(VERSIONS)


def keys(content: dict[str, Any]) -> dict[str, str]:
    setup = read_setup(content)
    return {stage: key(stage, setup) for stage in STAGES}


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The stages whose key differs."""
    first, second = keys(before), keys(after)
    return [stage for stage in STAGES if first[stage] != second[stage]]


def following(stage: str) -> list[str]:
    """A stage and all that follow it; `quality` and `denoising` both follow `emm`."""
    return [stage] if stage in ("quality", "denoising") else STAGES[STAGES.index(stage) :]  # type: ignore[arg-type]


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    result = {section: dict(values) if isinstance(values, dict) else values for section, values in first.items()}
    for section, values in second.items():
        result[section] = merged(result.get(section, {}), values) if isinstance(values, dict) else values
    return result


# Frozen: a change here makes all results of all users again.  Only a deliberate change is right.

FROZEN: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["dc9a6758ab", "b745f53232", "bb9b4fd04c", "b340ea76f6", "d9f81c1c54", "39b1b51707", "f4dd1fa8fc"]),
    (
        {"diffusion": {"preconditioning": "edm"}, "training": {"optimizer": "sgd", "weight_decay": 0.1}},
        ["dc9a6758ab", "a49248fa02", "0465985958", "0ab69e66ba", "0631b376c2", "a4fd937073", "d117913dc7"],
    ),
    (
        {"diffusion": {"denoiser": "optimum"}, "data": {"source": "digits", "labels": "unique"}},
        ["0c67097511", "464ff6e5c2", "567060883e", "d4f5ad2280", "2356a92e47", "d787076b79", "05163b47fd"],
    ),
    (
        {"scoring": {"mirrored": True}},
        ["dc9a6758ab", "b745f53232", "bb9b4fd04c", "2d3307a670", "18001f5b88", "8ab56e4b61", "b113852971"],
    ),
]


@pytest.mark.parametrize(("content", "expected"), FROZEN)
def test_frozen_keys(content, expected):
    assert list(keys(content).values()) == expected


def test_stages_have_keys_of_their_own():
    assert len(set(keys({}).values())) == len(STAGES)


# Every setting, with another value, the settings beside which it matters, and the first stage whose key it changes

LEAVES: dict[str, tuple[Any, dict[str, Any], str | None]] = {
    "seed": (1, {}, "subset"),
    "data.source": ("digits", {}, "subset"),
    "data.fit": ("crop", {}, "subset"),
    "data.root": ("elsewhere", {}, None),
    "data.download": (True, {}, None),
    "data.resolution": (16, {}, "subset"),
    "data.classes": ([0, 1], {}, "subset"),
    "data.balanced": (False, {}, "subset"),
    "data.draw": ("first", {}, "subset"),
    "data.labels": ("unique", {}, "subset"),
    "data.embeddings": ("class", {"data": {"labels": "embeddings:rows.npz"}}, "subset"),
    "data.held_out": (3, {}, "subset"),
    "data.mixture": ("digits", {"data": {"mixture_share": 0.5}}, "subset"),
    "data.mixture_classes": ([0, 1], {"data": {"mixture": "digits", "mixture_share": 0.5}}, "subset"),
    "data.mixture_share": (0.5, {"data": {"mixture": "digits"}}, "subset"),
    "data.duplicates.share": (0.2, {"data": {"duplicates": {"share": 0.1, "times": 3}}}, "subset"),
    "data.duplicates.times": (2, {"data": {"duplicates": {"share": 0.1, "times": 3}}}, "subset"),
    "model.command": ("run {subset} {samples}", {}, "train"),
    "model.files": ({"a.py": "0123"}, {"model": {"command": "run {subset} {samples}"}}, "train"),
    "model.minutes": (2.0, {}, None),
    "model.gpus": (2, {}, None),
    "network.architecture": ("ncsnpp", {}, "train"),
    "network.channels": (64, {}, "train"),
    "network.multipliers": ([1, 2, 2], {}, "train"),
    "network.blocks": (3, {}, "train"),
    "network.attention": ([8], {}, "train"),
    "network.embedding": ("fourier", {}, "train"),
    "network.skips": ([0] * 9, {}, "train"),
    "network.dropout": (0.2, {}, "train"),
    "network.patch": (4, {"network": {"architecture": "dit"}}, "train"),
    "network.heads": (2, {"network": {"architecture": "dit"}}, "train"),
    "diffusion.denoiser": ("optimum", {}, "train"),
    "diffusion.preconditioning": ("ve", {}, "train"),
    "diffusion.sigma_data": (0.4, {"diffusion": {"preconditioning": "edm"}}, "train"),
    "diffusion.p_mean": (-1.0, {"diffusion": {"preconditioning": "edm"}}, "train"),
    "diffusion.p_std": (1.0, {"diffusion": {"preconditioning": "edm"}}, "train"),
    "diffusion.times": ("uniform", {"diffusion": {"preconditioning": "flow"}}, "train"),
    "training.duration": ("10 epochs", {}, "train"),
    "training.batch_size": (128, {}, "train"),
    "training.optimizer": ("sgd", {}, "train"),
    "training.learning_rate": (1e-3, {}, "train"),
    "training.lr_ramp": ("1 %", {}, "train"),
    "training.momentum": (0.5, {"training": {"optimizer": "sgd"}}, "train"),
    "training.weight_decay": (0.1, {}, "train"),
    "training.decoupled": (True, {"training": {"weight_decay": 0.1}}, "train"),
    "training.ema_decays": ([0.99929, 0.9], {}, "train"),
    "training.ema_ramp": ("1 %", {}, "train"),
    "training.ema_warmup": ("common", {}, "train"),
    "training.precision": ("bfloat16", {}, "train"),
    "training.gpus": (2, {}, None),
    "training.sigma_min": (0.1, {}, "train"),
    "training.flip": (0.5, {}, "train"),
    "training.label_dropout": (0.1, {"data": {"labels": "unique"}}, "train"),
    "training.order": ("fixed", {}, "train"),
    "training.snapshots": ([1.0], {}, "train"),
    "sampling.images": (100, {}, "sample"),
    "sampling.steps": (9, {}, "sample"),
    "sampling.sigma_min": (0.01, {}, "sample"),
    "sampling.sigma_max": (50.0, {}, "sample"),
    "sampling.rho": (5.0, {}, "sample"),
    "sampling.precision": ("bfloat16", {}, "sample"),
    "sampling.ema_decay": (0.9, {"training": {"ema_decays": [0.99929, 0.9]}}, "sample"),
    "sampling.guidance": (2.0, {"data": {"labels": "unique"}, "training": {"label_dropout": 0.1}}, "sample"),
    "scoring.threshold": (0.5, {}, "score"),
    "scoring.mirrored": (True, {}, "score"),
    "scoring.distinct": (False, {}, "score"),
    "scoring.neighbours": (5, {}, "score"),
    "scoring.snapshot": ("best", {}, "emm"),
    "search.rule": ("grid", {"search": {"grid": [10, 20]}}, "emm"),
    "search.epsilon": (0.2, {}, "emm"),
    "search.n_min": (50, {}, "emm"),
    "search.n_max": (20_000, {}, "emm"),
    "search.start": (500, {}, "emm"),
    "search.steps_per_octave": (4, {}, "emm"),
    "search.locate": (5, {}, "emm"),
    "search.confirm": (6, {}, "emm"),
    "search.parallel": (2, {}, "emm"),
    "search.slope": (2.0, {}, "emm"),
    "search.spread": (2.0, {}, "emm"),
    "search.grid": ([100, 200], {}, "emm"),
    "search.replicates": (3, {}, "emm"),
    "quality.enabled": (False, {}, None),
    "quality.features": (["efficientnet-lite0"], {}, "quality"),
    "quality.neighbours": (3, {}, "quality"),
    "quality.images": (500, {}, "quality"),
    "quality.draws": (5, {}, "quality"),
    "quality.thresholds.ratio": ([0.3], {}, "quality"),
    "quality.thresholds.calibrated": ([], {}, "quality"),
    "quality.thresholds.absolute": ([4.0], {}, "quality"),
    "quality.thresholds.cosine": ([0.8], {}, "quality"),
    "denoising.enabled": (True, {}, None),
    "denoising.levels": ([0.1, 1.0], {}, "denoising"),
    "denoising.images": (32, {}, "denoising"),
}


def setting(dotted: str, value: Any) -> dict[str, Any]:
    section, _, name = dotted.partition(".")
    return {section: setting(name, value)} if name else {section: value}


def test_table_names_every_setting():
    """A new setting must say here which keys it changes."""
    assert set(LEAVES) == set(leaves(Setup()))


@pytest.mark.parametrize("dotted", LEAVES)
def test_a_setting_changes_the_keys_from_its_stage_on(dotted):
    value, beside, first = LEAVES[dotted]
    expected = following(first) if first else []
    assert changed(beside, merged(beside, setting(dotted, value))) == expected


@pytest.mark.parametrize(
    ("dotted", "beside"),
    [
        ("data.embeddings", {"data": {"labels": "unique"}}),
        ("training.label_dropout", {}),
        ("sampling.guidance", {"training": {"label_dropout": 0.1}}),
        ("sampling.guidance", {"diffusion": {"denoiser": "optimum"}, "data": {"labels": "unique"}}),
        ("training.momentum", {}),
        ("training.decoupled", {}),
        ("diffusion.sigma_data", {}),
        ("diffusion.p_mean", {"diffusion": {"preconditioning": "ve"}}),
        *(
            (name, {"model": {"command": "run {subset} {samples}"}})
            for name in LEAVES
            if name.split(".")[0] in ("network", "training", "diffusion", "sampling")
            and name not in ("diffusion.denoiser", "sampling.images", "sampling.ema_decay")
        ),
        ("model.files", {}),
        *(
            (name, {"diffusion": {"denoiser": "optimum"}})
            for name in LEAVES
            if name.split(".")[0] in ("network", "training") or name == "diffusion.preconditioning"
        ),
    ],
)
def test_settings_without_effect_change_no_key(dotted, beside):
    """Of Adam, of no weight decay, of no labels, of VP, of a command of the user's, of the closed-form optimum."""
    assert changed(beside, merged(beside, setting(dotted, LEAVES[dotted][0]))) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"network": {"embedding": "positional"}}),
        ({"network": {"architecture": "ncsnpp"}}, {"network": {"architecture": "ncsnpp", "embedding": "fourier"}}),
        ({}, {"network": {"skips": [1] * 9}}),
        ({}, {"network": {"skips": [True] * 9}}),
        ({}, {"network": {"patch": 4, "heads": 2}}),
        (
            {"network": {"architecture": "dit"}},
            {"network": {"architecture": "dit", "multipliers": [1, 2], "attention": [], "embedding": "positional"}},
        ),
        ({}, {"sampling": {"ema_decay": 0.99929}}),
        ({"training": {"weight_decay": 0}}, {"training": {"weight_decay": "0.0"}}),
        ({"training": {"learning_rate": 2e-4}}, {"training": {"learning_rate": "0.2e-3"}}),
        ({"scoring": {"threshold": "1/3"}}, {}),
        ({"data": {"labels": True}}, {"data": {"labels": "true"}}),
        ({"sampling": {"sigma_max": 80}}, {}),
        ({"data": {"duplicates": {"share": 0, "times": 1}}}, {"data": {"duplicates": None}}),
        (
            {"data": {"duplicates": {"share": 0.25, "times": 2}}},
            {"data": {"duplicates": {"share": "1/4", "times": "2"}}},
        ),
        (
            {"diffusion": {"denoiser": "optimum"}, "sampling": {"ema_decay": 0.99929}},
            {"diffusion": {"denoiser": "optimum", "preconditioning": "edm"}},
        ),
    ],
)
def test_settings_that_mean_the_same_share_keys(first, second):
    assert changed(first, second) == []


def test_sampled_decay_decides_from_sampling_on():
    both = {"training": {"ema_decays": [0.9, 0.5]}}
    assert ema_decay(read_setup(both)) == 0.9
    assert changed(both, merged(both, {"sampling": {"ema_decay": 0.9}})) == []
    assert changed(both, merged(both, {"sampling": {"ema_decay": 0.5}})) == following("sample")


@pytest.mark.parametrize("stage", STAGES)
def test_raising_a_version_changes_the_keys_from_there_on(stage, monkeypatch):
    before = keys({})
    monkeypatch.setitem(VERSIONS, stage, VERSIONS[stage] + 1)
    after = keys({})
    assert [s for s in STAGES if before[s] != after[s]] == following(stage)


@pytest.mark.parametrize("content", [content for content, _ in FROZEN])
@pytest.mark.parametrize("stage", STAGES)
def test_stages_read_back_the_settings_that_they_are_given(stage, content):
    """Through JSON, as on the command line: a stage sees the same values and would compute the same key."""
    setup = read_setup(content)
    back = read_setup(json.loads(json.dumps(stage_settings(stage, setup))))
    assert key(stage, back) == key(stage, setup)
    assert back.data == setup.data
    assert back.seed == setup.seed


def test_stages_get_nothing_that_they_must_not_use():
    assert set(stage_settings("subset", Setup())) == {"seed", "data"}
    assert set(stage_settings("train", Setup())) == {"seed", "data", "network", "diffusion", "training"}
    assert set(stage_settings("sample", Setup())) == {"seed", "data", "network", "diffusion", "training", "sampling"}
    optimum = read_setup({"diffusion": {"denoiser": "optimum"}})
    assert set(stage_settings("score", optimum)) == {"seed", "data", "diffusion", "sampling", "scoring"}
    assert "snapshot" not in stage_settings("score", Setup())["scoring"]


def test_folders():
    root = Path("results")
    assert run_folder(root, "train", "abc", 100, 2) == root / "runs" / "abc" / "n100" / "r2"
    assert run_folder(root, "score") == root / "scores" / "{key}" / "n{n}" / "r{r}"
    assert arm_folder(root, "emm", "abc") == root / "emm" / "abc"
    assert arm_folder(root, "emm") == root / "emm" / "{key}"
    assert arm_folder(root, "quality", "abc") == root / "quality" / "abc"
