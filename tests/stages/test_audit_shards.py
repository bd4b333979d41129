"""An audit in shards: equal to the audit in one piece, byte by byte, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emmeter.errors import SettingsError
from emmeter.pipeline import audits
from emmeter.pipeline.audits import Audit
from emmeter.pipeline.index import index_of
from emmeter.pipeline.paths import Paths
from emmeter.settings.audits import AuditText
from emmeter.settings.configuration import read
from emmeter.settings.validation import validate
from one_run import CONTENT, call

COUNT = 60


@pytest.fixture
def sets(tmp_path, monkeypatch) -> Path:
    """Arrays and folders: train (with images that occur twice, also mirrored), made (with copies of them), held."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    train, made, held = (random.integers(0, 256, (count, 6, 6), np.uint8) for count in (COUNT, 40, 30))
    train[50:55], train[20], train[45] = train[5:10], train[40], train[30, :, ::-1]
    made[:10], made[10], made[11] = train[50:60], train[20], train[45]
    for name, images in {"train": train, "made": made, "held": held}.items():
        np.save(f"{name}.npy", images)
        np.savez(f"{name}.npz", images=images)
        Path(name).mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image).save(Path(name, f"{index:03d}.png"))
    return tmp_path


def described(kind: str, **options: object) -> Audit:
    return Audit(validate(AuditText, {"generated": f"made{kind}", "train": f"train{kind}", **options}))


def in_shards(audit: Audit, count: int, folder: str = "shards") -> int:
    files = [f"{folder}-{number}.npz" for number in range(count)]
    for number, file in enumerate(files):
        asked = ("--audit", audits.as_json(audit, shard=True), "--shard", str(number), "--shards", str(count))
        if status := call("emmeter.stages.audit_shard", *asked, "--output", file):
            return status
    return call("emmeter.stages.audit_target", "--audit", audits.as_json(audit), "--shards", *files, "--folder", folder)


@pytest.mark.parametrize(("kind", "mirrored", "shards"), [("", True, 2), (".npz", False, 7), (".npy", True, COUNT)])
def test_an_audit_in_shards_gives_the_files_of_emm_audit(sets, kind, mirrored, shards):
    audit = described(kind, held_out=f"held{kind}", mirrored=mirrored, shards=shards)
    assert in_shards(audit, shards) == 0
    options = ("--held-out", f"held{kind}", *(["--mirrored"] if mirrored else []))
    assert call("emmeter.cli", "audit", f"made{kind}", "--train", f"train{kind}", *options, "-o", "whole") == 1
    names = sorted(path.name for path in Path("whole").iterdir())
    assert names == sorted(path.name for path in Path("shards").iterdir()) and "held_out.csv" in names
    for name in names:
        assert Path("shards", name).read_bytes() == Path("whole", name).read_bytes(), name


def test_equal_images_in_all_shards_are_one_fault(sets, capsys):
    np.save("train.npy", np.zeros((8, 6, 6), np.uint8))
    assert in_shards(described(".npy", shards=4), 4) == 1
    assert "error: train.npy: has fewer than two distinct images" in capsys.readouterr().err


def test_shards_of_other_images_are_refused(sets, capsys):
    assert in_shards(described(".npy", shards=2), 2) == 0
    np.save("made.npy", np.load("made.npy")[:5])
    files = ["shards-0.npz", "shards-1.npz"]
    asked = ("--audit", audits.as_json(described(".npy", shards=2)))
    assert call("emmeter.stages.audit_target", *asked, "--shards", *files, "--folder", "again") == 1
    assert "the images have changed since they were compared" in capsys.readouterr().err


def test_groups_of_a_manifest_need_one_shard(sets, capsys):
    Path("m.csv").write_text("path,group\n000.png,a\n")
    assert in_shards(described("", manifest="m.csv", shards=2), 2) == 1
    assert "error: train: its images have groups, which need shards: 1" in capsys.readouterr().err


def test_more_shards_than_images_and_late_colours_are_one_line(sets, capsys):
    assert in_shards(described("", shards=61), 61) == 1
    assert "error: train: has 60 images, fewer than the 61 shards" in capsys.readouterr().err
    for index in range(60, 70):
        Image.new("RGB", (6, 6), (index, 0, 0) if index > 65 else (9, 9, 9)).convert("RGB" if index > 65 else "L").save(
            f"train/{index:03d}.png"
        )
    assert in_shards(described("", shards=2), 2) == 1
    assert "error: train: has colours after its first 64 images" in capsys.readouterr().err


@pytest.mark.parametrize("options", [
    {"criteria": ["calibrated"]}, {"criteria": ["ratio", "calibrated"]}, {"group_pattern": "x"}, {"features": "f.pt"},
])  # fmt: skip
def test_what_shards_cannot_do_is_refused_with_the_settings(options):
    described("", **options)
    with pytest.raises(SettingsError, match="shards = 2: must be 1 unless ratio is the only criterion"):
        described("", shards=2, **options)


def test_options_that_no_setting_checks_are_checked_before_any_job(tmp_path):
    wrong = {"a": described("", criteria=["l2", "ratio=2"]).text, "b": described("", memory="much").text}
    index = index_of(read(CONTENT | {"studies": {"one": {"arms": {"one": {}}}}}), tmp_path / "results")
    with pytest.raises(SettingsError) as error:
        audits.resolved(wrong, Paths(index, Path("results")))
    assert [line.partition(": ")[0] for line in error.value.lines] == [
        "audits.a.criteria = 'l2'", "audits.a.criteria = 'ratio=2'", "audits.b.memory = 'much'"
    ]  # fmt: skip


def test_shards_stay_valid_if_only_the_answer_is_asked_in_another_way(sets):
    one, other = described(""), described("", fail_above=0.5, redact=True, shards=9)
    assert audits.as_json(one, shard=True) == audits.as_json(other, shard=True)
    assert json.loads(audits.as_json(other))["fail_above"] == 0.5
    before = audits.signature(one)
    Path("train/new.png").write_bytes(b"x")
    assert audits.signature(one) != before
