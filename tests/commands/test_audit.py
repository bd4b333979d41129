"""`emm audit` on folders with planted copies: answers, files, exit statuses, refusals, and kills."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from emmeter.files.tables import AUDIT_IMAGE_COLUMNS, AUDIT_TRAINING_COLUMNS
from one_run import call
from processes import lives, wait_until
from project import ROOT

COUNT = 400  # images of each set; 299 without a copy are the fewest that pass


def folder(path: Path, images: np.ndarray, names: list[str] | None = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(path / (names[index] if names else f"{index:05d}.png"))
    return path


def noise(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 6, 6), np.uint8)


def planted(train: np.ndarray) -> np.ndarray:
    """New images, of which 0 to 9 are copies of training image 0, 10 to 29 near copies, 30 to 39 mirror images."""
    images = noise(COUNT, 2)
    images[:10] = train[0]
    images[10:30] = np.clip(train[10:30].astype(int) + 2, 0, 255)
    images[30:40] = train[30:40, :, ::-1]
    return images


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders: train, copies (with planted copies), new and held (without)."""
    root = tmp_path_factory.mktemp("sets")
    train = noise(COUNT, 1)
    for name, images in {
        "train": train,
        "copies": planted(train),
        "new": noise(COUNT, 3),
        "held": noise(99, 4),
    }.items():
        folder(root / name, images)
    return root


@pytest.fixture
def place(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder beside links to the sets."""
    for entry in sets.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def audit(*arguments: object) -> int:
    return call("emmeter.cli", "audit", *map(str, arguments))


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_planted_copies_fail_and_are_named(place, capsys):
    assert audit("copies", "--train", "train", "--held-out", "held", "-o", "out") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "400 generated images against 400 training images, 6x6x1"
    assert lines[1].startswith("ratio: 30 of 400 generated images (7.5 %, 95 % interval ")
    assert lines[2].startswith("ratio: 0 of 99 held-out images (0 %, at most 2.98 %), which the model never saw")
    assert lines[3] == "ratio: 21 of 400 training images (5.25 %) were copied, most often 00000.png (10 times)"
    assert lines[-1] == "FAILED: copies are above the limit of 1 % beyond the rate of held-out images"
    images, training = rows(place / "out/images.csv"), rows(place / "out/training.csv")
    assert tuple(images[0]) == AUDIT_IMAGE_COLUMNS and tuple(training[0]) == AUDIT_TRAINING_COLUMNS
    assert [row["file"] for row in images if row["copy"] == "True"] == [f"{index:05d}.png" for index in range(30)]
    assert {row["nearest"] for row in images[:10]} == {"00000.png"} and images[15]["nearest"] == "00015.png"
    assert training[0] | {"matches": ""} == training[0] | {"file": "00000.png", "copies": "10", "matches": ""}
    assert sum(int(row["copies"]) for row in training) == 30
    assert sum(int(row["matches"]) for row in training) == COUNT
    assert len(rows(place / "out/held_out.csv")) == 99


def test_new_images_pass(place, capsys):
    assert audit("new", "--train", "train", "-o", "out") == 0
    output = capsys.readouterr().out
    assert "0 of 400 generated images (0 %, at most 0.746 %)" in output and "PASSED" in output
    assert sorted(os.listdir(place / "out")) == ["SHA256SUMS", "audit.html", "audit.json", "images.csv", "training.csv"]


def test_too_few_images_leave_it_undecided(place, capsys):
    assert audit("held", "--train", "train", "-o", "out") == 2
    assert "compare more generated images: at least 299, none of which may be a copy" in capsys.readouterr().out


def test_held_out_images_that_were_trained_on_are_counted(place, capsys):
    folder(place / "leaked", np.concatenate([noise(COUNT, 1)[:3], noise(99, 4)]))
    audit("new", "--train", "train", "--held-out", "leaked", "-o", "out")
    assert "held-out images that equal a training image: 3; the excess is too small" in capsys.readouterr().out
    assert json.loads((place / "out/audit.json").read_text())["held_out_equal_training"] == 3


@pytest.mark.parametrize(("generated", "status"), [("new", 0), ("copies", 1)])
def test_the_example_passes_and_fails(generated, status, tmp_path):
    example = ROOT / "examples/audit"
    arguments = ("--train", example / "train.npz", "--held-out", example / "held_out.npz")
    assert audit(example / f"{generated}.npz", *arguments, "-o", tmp_path / "out") == status


@pytest.mark.exhaustive
def test_the_gate_of_the_documentation_opens_and_closes(tmp_path):
    page = (ROOT / "docs/audit.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```\n(jobs:\n.*?)```", page, re.DOTALL)
    steps = {step.get("name"): step.get("run") for step in yaml.safe_load(text)["jobs"]["gate"]["steps"]}
    (tmp_path / "examples").symlink_to(ROOT / "examples")

    def status(command: str) -> int:
        command = command.replace("uv run emm", f"{sys.executable} -m emmeter.cli")
        return subprocess.run(["bash", "-ec", command], cwd=tmp_path, capture_output=True).returncode

    assert status(steps["it opens"]) == 0 and status(steps["it closes"]) == 0
    swapped = steps["it closes"].replace("copies.npz", "new.npz")
    unreadable = steps["it closes"].replace("copies.npz", "gone.npz")
    assert status(swapped) == 1 and status(unreadable) == 1


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_table_of_changes_can_be_made_for_any_images(tmp_path):
    example = ROOT / "examples/audit"
    command = [sys.executable, example / "changes.py", example / "train.npz", example / "new.npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shares = {row.split(" | ")[0].strip("| "): row.split(" | ")[1] for row in done.stdout.splitlines()[2:]}
    assert float(shares["noise, standard deviation 8"].split()[0]) > 95 and shares["new images"] == "0 %"


def test_mirror_images_count_if_asked(place):
    audit("copies", "--train", "train", "--mirrored", "-o", "out")
    images = rows(place / "out/images.csv")
    assert sum(row["copy"] == "True" for row in images) == 40
    assert {row["mirrored"] for row in images[30:40]} == {"True"} and images[10]["mirrored"] == "False"


def test_every_criterion_finds_the_copies(place, network):
    arguments = ("--criterion", "ratio=1/4", "calibrated", "cosine=0.999", "--features", network, "--mirrored")
    assert audit("copies", "--train", "train", *arguments, "-o", "out") == 1
    images = rows(place / "out/images.csv")
    assert [row["copy_by"] for row in images] == ["ratio calibrated cosine"] * 40 + [""] * 360
    assert [row["similar"] for row in images[:40]] == [row["nearest"] for row in images[:40]]
    record = json.loads((place / "out/audit.json").read_text())
    assert record["settings"]["criteria"] == {"ratio": "0.25", "calibrated": "0.5", "cosine": "0.999"}


@pytest.fixture
def network(place) -> str:
    """A TorchScript file whose features are the pixels themselves, less a grey."""
    import torch

    warnings.simplefilter("ignore", FutureWarning)  # torch plans to replace the format

    class Pixels(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images - 0.5

    torch.jit.script(Pixels()).save("pixels.pt")
    return "pixels.pt"


def test_the_second_neighbour_is_of_another_group(tmp_path, monkeypatch, capsys):
    """Frames of one video are near each other: without groups they hide a copy."""
    monkeypatch.chdir(tmp_path)
    scenes = noise(50, 1).repeat(4, axis=0).astype(int)
    frames = np.clip(scenes + np.random.default_rng(5).integers(-2, 3, scenes.shape), 0, 255).astype(np.uint8)
    folder(tmp_path / "train", frames, [f"video{index // 4}_{index % 4}.png" for index in range(200)])
    folder(tmp_path / "made", np.concatenate([np.clip(frames[:80].astype(int) + 1, 0, 255).astype(np.uint8)] * 5))
    assert audit("made", "--train", "train", "-o", "alone") == 0
    assert audit("made", "--train", "train", "--group-pattern", r"video\d+", "-o", "grouped") == 1
    assert "400 of 400 generated images (100 %, at least 99.3 %) are copies" in capsys.readouterr().out
    (tmp_path / "m.csv").write_text(
        "path,group,prompt\n" + "".join(f"video{index // 4}_{index % 4}.png,{index // 4},\n" for index in range(200))
    )
    assert audit("made", "--train", "train", "--manifest", "m.csv", "-o", "listed") == 1
    grouped, listed = ((tmp_path / name / "images.csv").read_text() for name in ("grouped", "listed"))
    assert grouped.replace("video", "") == listed.replace("video", "")
    record = json.loads((tmp_path / "listed/audit.json").read_text())
    assert record["inputs"]["train"]["groups"] == 50 and record["criteria"][0]["groups_copied"] == 20


def test_equal_inputs_give_equal_files(place):
    arguments = ("copies", "--train", "train", "--held-out", "held", "--criterion", "ratio", "calibrated")
    for output in ("one", "two"):
        audit(*arguments, "-o", output)
    for name in os.listdir(place / "one"):
        assert (place / "one" / name).read_bytes() == (place / "two" / name).read_bytes(), name


def test_sets_in_files_and_in_small_blocks_give_equal_tables(place, monkeypatch):
    from emmeter.stages import audit as stage

    audit("copies", "--train", "train", "--held-out", "held", "-o", "one")
    monkeypatch.setattr(stage, "OVERHEAD", 4 * 10**9 - 3000)
    monkeypatch.setattr(stage, "LEAST", 3000)
    audit("copies", "--train", "train", "--held-out", "held", "-o", "two")
    for name in os.listdir(place / "one"):
        assert (place / "one" / name).read_bytes() == (place / "two" / name).read_bytes(), name


def test_redacted_results_hold_no_names(place, capsys):
    (place / "m.csv").write_text("path,group,prompt,seed,label\n00000.png,secret,secret,secret,secret\n")
    audit("copies", "--train", "train", "--manifest", "m.csv", "--redact", "-o", "out")
    printed = capsys.readouterr()
    texts = [path.read_text() for path in (place / "out").iterdir()]
    for text in (*texts, printed.out, printed.err):
        assert "secret" not in text and ".png" not in text and str(place) not in text and "m.csv" not in text
    first = rows(place / "out/images.csv")[0]
    assert len(first["file"]) == 16 and first["file"] == first["nearest"] and first["group"] == "1"


def test_own_runs_are_audited_by_name(finished, tmp_path):
    """Copies of a run are those that its score counted."""
    copy = finished.copied(tmp_path / "project")

    def own(name: str, output: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "emmeter.cli", "audit", name, "-o", output]
        done = subprocess.run(command, cwd=copy.folder, env=copy.process()["env"], capture_output=True, text=True)
        return done.returncode, done.stderr

    status, note = own("labels/random", "out")
    assert status in (0, 1, 2) and note.startswith("note: labels/random/n"), note
    run = note.split()[1]
    n, r = run.split("/")[-2:]
    assert own(run, "again") == (status, "")
    assert (copy.folder / "out/images.csv").read_bytes() == (copy.folder / "again/images.csv").read_bytes()
    flagged = sum(row["copy"] == "True" for row in rows(copy.folder / "out/images.csv"))
    scores = [json.loads(path.read_text()) for path in (copy.folder / "results/scores").glob(f"*/{n}/{r}/score.json")]
    assert flagged in {score["snapshots"][-1]["memorized"] for score in scores}
    status, note = own("labels/random/n7777/r0", "none")
    assert status == 2 and "is not a finished run; there are n" in note


REFUSALS = [
    (["copies"], "--train: name the images"),
    (["gone", "--train", "train"], "gone: no such folder or file"),
    (["copies", "--train", "gone"], "gone: no such folder or file"),
    (["copies", "--train", "train", "--held-out", "gone"], "gone: no such folder or file"),
    (["copies", "--train", "train", "-o", "file"], "file: is a file; name a folder by -o"),
    (["copies", "--train", "train", "--criterion", "l2"], "must be one of ratio, calibrated, cosine"),
    (["copies", "--train", "train", "--criterion", "ratio=2"], "the threshold must be between 0 and 1"),
    (["copies", "--train", "train", "--criterion", "ratio=x"], "the threshold must be between 0 and 1"),
    (["copies", "--train", "train", "--criterion", "ratio", "ratio=1/2"], "--criterion: names ratio twice"),
    (["copies", "--train", "train", "--criterion", "cosine"], "--features: the criterion cosine needs a network"),
    (["copies", "--train", "train", "--features", "file"], "--features: serves the criterion cosine alone"),
    (["copies", "--train", "train", "--criterion", "cosine", "--features", "gone"], "gone: no such file"),
    (["copies", "--train", "train", "--criterion", "cosine", "--features", "file"], "file: is not a TorchScript file"),
    (["copies", "--train", "train", "--fail-above", "1"], "must be a share from 0 to below 1"),
    (["copies", "--train", "train", "--fail-above", "nan"], "must be a share from 0 to below 1"),
    (["copies", "--train", "train", "--memory", "much"], "must be a size such as 4GB"),
    (["copies", "--train", "train", "--memory", "10MB"], "must be at least 1500MB"),
    (["copies", "--train", "train", "--resize", "0"], "must be a number of pixels from 1 to 4096"),
    (["copies", "--train", "train", "--group-pattern", "("], "is not a regular expression"),
    (["copies", "--train", "train", "--group-pattern", "x"], "matches no name, such as 00000.png"),
    (["copies", "--train", "train", "--group-pattern", "png"], "fewer than two groups of images"),
    (["copies", "--train", "train", "--manifest", "gone.csv"], "gone.csv: cannot be read"),
    (["copies", "--train", "train", "--manifest", "other.csv"], "other.csv: names no image of the sets"),
    (["copies", "--train", "train", "--manifest", "other.csv", "--group-pattern", "x"], "not allowed with argument"),
    (["copies", "--train", "equal"], "fewer than two distinct images"),
    (["copies", "--train", "single"], "fewer than two distinct images"),
    (["copies", "--train", "wide"], "its first image has 7 x 6 pixels, that of copies 6 x 6"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSALS, ids=[" ".join(words) for words, _ in REFUSALS])
def test_what_cannot_be_audited_is_one_line_with_status_2(place, capfd, arguments, words):
    (place / "file").write_text("x")
    (place / "other.csv").write_text("path,group\nother.png,a\n")
    folder(place / "equal", np.zeros((3, 6, 6), np.uint8))
    folder(place / "single", noise(1, 0))
    folder(place / "wide", np.zeros((3, 6, 7), np.uint8))
    before = sorted(os.listdir(place))
    assert audit(*arguments) == 2
    printed = capfd.readouterr()
    (line,) = [line for line in printed.err.splitlines() if "error: " in line]
    assert words in line and printed.out == ""
    assert sorted(os.listdir(place)) == before


PAUSED = """
import os, sys
from emmeter.data.collection import gather
def paused(*arguments, read=gather.decode_part):
    open("reading", "w").close()
    import time; time.sleep(60)
gather.decode_part = paused
gather.MANY = 1
from emmeter.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_while_images_are_read_leaves_neither_files_nor_processes(place, kill):
    command = [sys.executable, "-c", PAUSED, "audit", "copies", "--train", "train", "-o", "out"]
    process = subprocess.Popen(command, cwd=place, stderr=subprocess.DEVNULL)
    wait_until(lambda: (place / "reading").exists(), 60, "reading")
    children = [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.send_signal(kill)
    process.wait(30)
    wait_until(lambda: not any(map(lives, children)), 30, "workers have ended")
    assert children and os.listdir(place / "out") == []


def test_a_kill_between_files_leaves_no_record(place, monkeypatch):
    from emmeter.stages import audit as stage

    assert audit("new", "--train", "train", "-o", "out") == 0

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        audit("copies", "--train", "train", "-o", "out")
    assert not (place / "out/audit.json").exists()


@pytest.mark.exhaustive
def test_folders_of_50_000_files_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = noise(50_000, 1)
    for name, images in {"train": train, "made": np.concatenate([train[:1000], noise(4000, 2)])}.items():
        folder(tmp_path / name, images)
    started = time.monotonic()
    assert audit("made", "--train", "train", "-o", "out") == 1
    assert time.monotonic() - started < 300
    assert sum(row["copy"] == "True" for row in rows(tmp_path / "out/images.csv")) == 1000


def test_every_column_and_key_is_documented(place):
    page = (ROOT / "docs/outputs.md").read_text(encoding="utf-8").partition("\n## Audit\n")[2].partition("\n## ")[0]
    documented = set(re.findall(r"`(\w+)`", page))
    audit("copies", "--train", "train", "--held-out", "held", "-o", "out")
    record = json.loads((place / "out/audit.json").read_text())
    keys = {*record, *record["inputs"], *record["inputs"]["train"], *record["settings"], *record["criteria"][0]}
    keys |= {*record["criteria"][0]["generated"], *record["criteria"][0]["excess"], *record["nearer_to_training"]}
    keys |= {*record["criteria"][0]["training_images_copied"]}
    assert keys | {*AUDIT_IMAGE_COLUMNS, *AUDIT_TRAINING_COLUMNS} <= documented
