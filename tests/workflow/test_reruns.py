"""After an edit, a deletion, a failure or a kill, Snakemake repeats exactly the jobs that are needed."""

import base64
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from emmeter.machine import warm
from project import JOINED, write_images

LONG = "5120 images"  # some seconds of training
MORE_COPIES = [("default", 1), ("default", 2), *((profile, seed) for profile in ("slurm", "none") for seed in range(3))]
AFTER_SEARCH = {"emm", "quality", "quality_table", "tradeoff", "criteria_table", "study", "figures", *JOINED, "report"}


def without_provenance(path):
    record = json.loads(path.read_text())
    return {
        name: value
        for name, value in record.items()
        if name not in ("seconds", "peak_memory_mb", "finished", "commit", "versions", "hardware")
    }


def warmed(workflow: int) -> list[str]:
    """Processes of a workflow that are not children of its jobs: the one that has torch loaded, and its copies."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(entry.read_text())
    return [line for line in lines if f"\0emmeter.machine.warm\0--serve\0{workflow}-" in line]


# ---- edits of the configuration, as dry runs


def test_nothing_changed(project):
    plan = project.plan()
    assert plan.jobs == {}
    assert "Nothing to be done" in plan.output


def test_what_does_not_change_results_reruns_no_run(project):
    project.change(
        "execution", {"device": "cpu", "threads": 2, "state_seconds": 5, "log_seconds": 5, "sampling_batch": 6}
    )
    assert project.plan().rules <= {"report"}


def test_epsilon_only_asks_the_searches_again(project):
    project.change("search.epsilon", 0.2)
    plan = project.plan()
    assert plan.rules == AFTER_SEARCH
    assert len(plan["emm"]) == 4


def test_threshold_only_scores_again(project):
    project.change("scoring.threshold", 0.25)
    plan = project.plan()
    assert plan.rules == AFTER_SEARCH | {"score"}


def test_more_images_sample_again_without_training(project):
    project.change("sampling.images", 24)
    assert project.plan().rules == AFTER_SEARCH | {"sample", "score"}


def test_settings_of_quality_only_measure_again(project):
    project.change("quality.neighbours", 3)
    plan = project.plan()
    assert plan.rules == {"quality", "quality_table", "tradeoff", "criteria_table", "report"}
    assert len(plan["quality"]) == 4


def test_without_quality_nothing_is_measured_and_nothing_else_runs(project):
    project.change("quality.enabled", False)
    assert project.plan().rules <= {"report"}
    project.change("scoring.threshold", 0.25)
    assert project.plan().rules == AFTER_SEARCH - {"quality", "quality_table", "tradeoff", "criteria_table"} | {"score"}


def test_errors_by_noise_level_train_and_sample_nothing(project):
    project.change("denoising.enabled", True)
    plan = project.plan()
    assert plan.rules == {"denoising", "denoising_table", "report"}
    assert len(plan["denoising"]) == 2  # of four arms, one is an optimum and two share a network


def test_figure_style_only_draws_again(project):
    project.change("figures.width", 8)
    plan = project.plan()
    assert plan.rules == {"figures", "tradeoff", "report"}
    assert len(plan["figures"]) == 3


def test_older_data_in_the_place_of_others_are_noticed(project):
    write_images(project.folder / "own.npz", first=200)
    os.utime(project.folder / "own.npz", (1e9, 1e9))  # as `cp -p` and `mv` leave it
    plan = project.plan()
    assert {"subset", "sample", "score"} <= plan.rules
    assert plan["study"] == ["own"]


def test_the_signature_of_own_data_is_no_parameter_of_other_data(project):
    """Therefore results made without it stay valid."""
    rules = project.folder / "workflow" / "rules" / "subset.smk"
    lines = rules.read_text().splitlines()
    without = [line for line in lines if "data_signature" not in line]
    assert len(without) == len(lines) - 1
    rules.write_text("\n".join(without) + "\n")
    assert [run.partition("/")[0] for run in project.plan()["subset"]] == [project.key("subset", "own", "file")]


def test_a_title_makes_only_its_study_again(project):
    project.change("studies.labels.title", "Labels")
    plan = project.plan()
    assert plan.rules <= {"study", "figures", "tradeoff", "criteria_table", *JOINED, "report"}
    assert plan["study"] == plan["figures"] == ["labels"]


def test_an_added_arm_runs_alone(project):
    project.change(["studies", "labels", "arms", "unique"], {"data.labels": "unique"})
    plan = project.plan()
    for stage in ("subset", "train", "sample", "score"):
        assert plan[stage] == [f"{project.key(stage, 'labels', 'unique')}/n10/r0"]
    assert plan["emm"] == [project.key("emm", "labels", "unique")]
    assert plan["study"] == plan["figures"] == ["labels"]


def test_an_added_arm_with_known_settings_runs_nothing(project):
    project.change(["studies", "denoiser", "arms", "random"], {"data.labels": "random-2"})
    assert project.plan().rules == AFTER_SEARCH - {"emm", "quality"}


def test_a_renamed_arm_runs_nothing(project):
    config = project.config()
    arms = config["studies"]["labels"]["arms"]
    arms["arbitrary"] = arms.pop("random")
    config["studies"]["labels"]["findings"]["claim"]["arms"] = ["arbitrary", "none"]
    project.configure(config)
    plan = project.plan()
    assert plan.rules == {"quality_table", "tradeoff", "criteria_table", "study", "figures", *JOINED, "report"}
    assert plan["study"] == ["labels"]


def test_a_removed_arm_runs_nothing(project):
    config = project.config()
    del config["studies"]["labels"]["arms"]["random"]
    del config["studies"]["labels"]["findings"]
    project.configure(config)
    plan = project.plan()
    assert plan.rules == {"quality_table", "tradeoff", "criteria_table", "study", "figures", *JOINED, "report"}
    assert plan["study"] == ["labels"]


def test_a_removed_study_runs_nothing(project):
    config = project.config()
    del config["studies"]["own"]
    project.configure(config)
    assert project.plan().rules == {*JOINED, "report"}


def test_arms_exchanged_are_noticed(project):
    config = project.config()
    arms = config["studies"]["labels"]["arms"]
    config["studies"]["labels"]["arms"] = dict(reversed(arms.items()))
    project.configure(config)
    assert project.plan()["study"] == ["labels"]  # the first arm is the baseline of the contrasts


# ---- another version of the workflow


@pytest.mark.exhaustive
def test_commands_with_new_names_need_one_touch(project):
    """As between versions whose stages compute the same under other names."""
    kept = project.times()
    records = list((project.folder / ".snakemake" / "metadata").iterdir())
    for record in records:
        content = json.loads(record.read_text())
        record.write_text(json.dumps(content | {"code": content["code"].replace("emmeter.stages.", "emm.")}))
    project.run_file("sample", "labels", "random", "samples.npz").unlink()  # as a user may, to save space
    assert {"subset", "report"} <= project.plan().rules
    project.snakemake("--touch")
    assert project.plan().jobs == {}
    assert project.times().keys() == kept.keys() - {
        str(project.run_file("sample", "labels", "random", "samples.npz").relative_to(project.folder / "results"))
    }


# ---- changed or deleted files, as dry runs


def test_a_changed_npz_file_is_noticed(project):
    own = project.folder / "own.npz"
    images = own.read_bytes()
    own.write_bytes(images)
    assert project.plan().jobs == {}  # newer, but the same
    with np.load(own) as archive:
        content = {name: array[::-1] for name, array in archive.items()}
    np.savez(own, **content)
    plan = project.plan()
    for stage in ("subset", "sample", "score"):
        assert plan[stage] == [f"{project.key(stage, 'own', 'file')}/n10/r0"]
    assert plan["emm"] == [project.key("emm", "own", "file")]
    assert "train" not in plan.rules


def test_times_of_the_data_do_not_matter(project):
    os.utime(project.folder / "own.npz", (4e9, 4e9))  # in the future
    assert project.plan().jobs == {}
    os.utime(project.folder / "own.npz", (1, 1))
    assert project.plan().jobs == {}


def test_results_of_the_earlier_rule_for_own_data_stay(project):
    """Then the data were an input, and had another signature."""
    path = project.run_file("subset", "own", "file", "subset.npz").relative_to(project.folder)
    record = project.folder / ".snakemake" / "metadata" / base64.urlsafe_b64encode(bytes(path)).decode()
    content = json.loads(record.read_text())
    present = dict(content)
    own = (project.folder / "own.npz").read_bytes()
    old = hashlib.sha256(str(len(own)).encode() + own[-65536:]).hexdigest()[:16]
    params = [param if param.startswith("'{") else repr(old) for param in content["params"]]
    assert params != content["params"]
    content |= {"input": ["own.npz"], "params": params, "input_checksums": {}}
    record.write_text(json.dumps(content))
    assert project.plan().jobs == {}
    assert {name: json.loads(record.read_text())[name] for name in ("input", "params")} == {
        name: present[name] for name in ("input", "params")
    }
    content["params"] = [param.replace(old, old[::-1]) for param in params]  # made from other data
    record.write_text(json.dumps(content))
    assert [run.partition("/")[0] for run in project.plan()["subset"]] == [project.key("subset", "own", "file")]


@pytest.fixture(scope="module")
def photographs(finished, tmp_path_factory):
    """The project with a finished study `own` of two more arms: a network on a folder with names of all kinds, and the
    optimum on an .npz, whose subsets and samples are larger than the files that Snakemake compares by itself."""
    project = finished.copied(tmp_path_factory.mktemp("photographs") / "project")
    rng = np.random.default_rng(0)
    (project.folder / "photos").mkdir()
    names = [b"{000}.bmp", b"{n}.bmp", b"$HOME.bmp", b"a b.bmp", b"\xff.bmp", b'it\'s "q".bmp', b"-n.bmp", b"*.bmp"]
    for name in [*names, *(b"%d.bmp" % i for i in range(12))]:
        image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        image.save(project.folder / "photos" / os.fsdecode(name))
    os.utime(project.folder / "photos" / "{000}.bmp", (4e9, 4e9))
    np.savez(project.folder / "large.npz", images=rng.integers(0, 256, (40, 256, 256, 3), dtype=np.uint8))
    grid = {"search.rule": "grid", "search.grid": [10]}
    optimum = {"diffusion.denoiser": "optimum"}
    project.change(["studies", "own", "arms", "folder"], grid | {"data.source": "folder:photos"})
    project.change(["studies", "own", "arms", "large"], grid | optimum | {"data.source": "npz:large.npz"})
    project.snakemake("own")
    sizes = [
        project.run_file(*names).stat().st_size
        for names in (("subset", "own", "large", "subset.npz"), ("sample", "own", "large", "samples.npz"))
    ]
    assert min(sizes) > 10**6
    assert project.plan("own").jobs == {}
    return project


@pytest.mark.parametrize(
    ("profile", "seed"),
    [("default", 0), *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in MORE_COPIES)],
)
def test_a_copy_with_new_times_in_any_order_runs_nothing(photographs, tmp_path, seed, profile):
    shutil.copytree(photographs.folder, tmp_path / "project", copy_function=shutil.copyfile)  # as `cp -r`
    project = type(photographs)(tmp_path / "project")
    files = sorted(path for path in project.folder.rglob("*") if path.is_file())
    random.Random(seed).shuffle(files)
    for i, path in enumerate(files):
        os.utime(path, (1.7e9 + i, 1.7e9 + i))
    chosen = {"default": [], "slurm": ["--workflow-profile", "profiles/slurm"], "none": ["--workflow-profile", "none"]}
    assert project.plan("own", *chosen[profile]).jobs == {}


def test_another_image_of_the_same_size_and_time_is_noticed(photographs, tmp_path):
    shutil.copytree(photographs.folder, tmp_path / "project")
    project = type(photographs)(tmp_path / "project")
    first, second = (project.folder / "photos" / os.fsdecode(name) for name in (b"\xff.bmp", b"0.bmp"))
    assert first.stat().st_size == second.stat().st_size
    times = first.stat()
    first.write_bytes(second.read_bytes()[:-1] + b"\0")
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    plan = project.plan("own")
    for stage in ("subset", "train", "sample", "score"):
        assert plan[stage] == [f"{project.key(stage, 'own', 'folder')}/n10/r0"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("copied", [False, True])
def test_an_interruption_after_new_data_is_made_up_for(photographs, tmp_path, copied):
    """Only the subset was drawn from the new images.  In a copy, results from the old images may look newer."""
    shutil.copytree(photographs.folder, tmp_path / "project")
    project = type(photographs)(tmp_path / "project")
    image = project.folder / "photos" / "0.bmp"
    before = image.read_bytes()
    image.write_bytes(before[:-1] + bytes([before[-1] ^ 255]))
    subset = project.run_file("subset", "own", "folder", "subset.npz")
    drawn = subset.read_bytes()
    project.snakemake(subset.relative_to(project.folder))
    assert subset.read_bytes() != drawn
    if copied:
        for path in (project.folder / "results").rglob("*"):
            if path.is_file():
                os.utime(path, (1.7e9, 1.7e9) if path.parts[-5] != "subsets" else (1.6e9, 1.6e9))
    key = project.key("subset", "own", "folder")
    plan = project.plan("own")
    for stage in ("train", "sample", "score"):
        assert plan[stage] == [f"{project.key(stage, 'own', 'folder')}/n10/r0"]
    assert "subset" not in plan.rules
    if copied:
        project.snakemake("own")
        assert project.plan("own").jobs == {}
        return
    image.write_bytes(before)
    plan = project.plan("own")
    assert plan["subset"] == [f"{key}/n10/r0"]
    project.snakemake(subset.relative_to(project.folder))
    assert subset.read_bytes() == drawn
    assert project.plan("own").jobs == {}  # what the old images gave is right again


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("digits/labels/curves.svg", {"figures"}),
        ("digits/labels/emm.csv", {"study", "figures", "tradeoff", *JOINED, "report"}),
        ("digits/labels/contrasts.csv", {"study", "figures", "tradeoff", *JOINED, "report"}),
        ("digits/emm.csv", {"summary", "report"}),
        ("digits/emm.html", {"summary", "report"}),
        ("digits/report.html", {"report"}),
    ],
)
def test_a_deleted_end_product_is_made_again(project, name, rules):
    (project.folder / "results" / name).unlink()
    plan = project.plan()
    assert plan.rules == rules
    assert set(plan["study"]) | set(plan["figures"]) <= {"labels"}


def test_a_deleted_score_is_made_from_its_samples(project):
    project.run_file("score", "denoiser", "optimum", "score.json").unlink()
    plan = project.plan()
    assert plan["score"] == [f"{project.key('score', 'denoiser', 'optimum')}/n10/r0"]
    assert plan.rules <= AFTER_SEARCH | {"score"}


def test_a_deleted_record_of_a_search_is_made_from_its_scores(project):
    project.emm_file("denoiser", "optimum").unlink()
    plan = project.plan()
    assert plan.rules <= AFTER_SEARCH
    assert set(plan["emm"]) <= {project.key("emm", "denoiser", "optimum")}


def test_deleted_intermediates_of_finished_runs_are_not_missed(project):
    project.run_file("train", "labels", "random", "snapshots.safetensors").unlink()
    project.run_file("sample", "labels", "random", "samples.npz").unlink()
    assert project.plan().jobs == {}


# ---- real reruns


@pytest.mark.exhaustive
def test_a_threshold_and_back_replays_the_same_searches(project):
    before = project.times()
    kept = ("subsets", "runs", "samples")
    original = project.emm_file("denoiser", "optimum")
    record = without_provenance(original)
    project.change("scoring.threshold", 0.25)
    project.snakemake("denoiser")
    assert json.loads(project.emm_file("denoiser", "optimum").read_text())["threshold"] == 0.25
    project.change("scoring.threshold", 1 / 3)
    plan = project.plan("denoiser")  # the tables of the old threshold are still there, as are those of the new
    assert plan.rules == {"study_report"}
    tables = {path.parent.parent.name for path in project.folder.glob("results/*/denoiser/emm.csv")}
    assert tables == {"digits", "digits-threshold-0.25"}
    # Their records were deleted: the search replayed on the old scores asks for the same sizes.
    original.unlink()
    (project.folder / "results/digits/denoiser/emm.csv").unlink()
    project.snakemake("denoiser")
    assert without_provenance(original) == record
    after = project.times()
    assert {name: t for name, t in after.items() if name.startswith(kept)} == {
        name: t for name, t in before.items() if name.startswith(kept)
    }


@pytest.fixture(scope="module")
def faulty(finished, tmp_path_factory):
    """A project in which one arm trains longer than before and another diverges, the plan, and Snakemake's run."""
    project = finished.copied(tmp_path_factory.mktemp("faulty") / "project")
    project.change(["studies", "labels", "arms", "random", "training.duration"], LONG)
    project.change(["studies", "denoiser", "arms", "diverging"], {"training.learning_rate": 1e30})
    plan = project.plan()
    done = project.snakemake(check=False)
    return project, plan, done


def test_one_changed_value_runs_its_arm_alone(faulty):
    project, plan, _ = faulty
    keys = {stage: [f"{project.key(stage, *arm)}/n10/r0" for arm in (("labels", "random"), ("denoiser", "diverging"))]
            for stage in ("train", "sample", "score")}  # fmt: skip
    assert {stage: sorted(plan[stage]) for stage in keys} == {stage: sorted(runs) for stage, runs in keys.items()}
    assert "subset" not in plan.rules


def test_a_failed_training_does_not_stop_other_arms(faulty):
    project, _, done = faulty
    assert done.returncode == 1
    assert project.emm_file("labels", "random").is_file()
    assert not project.emm_file("denoiser", "diverging").exists()
    assert not project.run_file("train", "denoiser", "diverging", "snapshots.safetensors").exists()
    labels = (project.folder / "results/digits/labels/emm.csv").read_text()
    assert ",5120," in labels  # images trained: the tables of the healthy study are new
    assert "Traceback" not in done.stdout


def test_the_message_of_a_failed_job_is_on_the_terminal(faulty):
    _, _, done = faulty
    assert "error: the loss became " in done.stdout
    assert "training.learning_rate = 1e+30" in done.stdout


def test_an_undone_edit_trains_nothing(faulty, finished, tmp_path):
    shutil.copytree(faulty[0].folder, tmp_path / "project")
    project = type(faulty[0])(tmp_path / "project")
    project.configure(finished.project.config())
    plan = project.plan()
    assert plan.rules == {"quality_table", "tradeoff", "criteria_table", "study", "figures", *JOINED, "report"}
    assert plan["study"] == plan["figures"] == ["labels"]


@pytest.mark.exhaustive
def test_killed_in_the_middle(project, faulty):
    undisturbed = faulty[0]
    project.change(["studies", "labels", "arms", "random", "training.duration"], LONG)
    project.change("execution.state_seconds", 1)
    target = project.run_file("score", "labels", "random", "score.json").relative_to(project.folder)
    training = project.run_file("train", "labels", "random", "training.json")
    state = project.folder / "results/state" / project.key("train", "labels", "random") / "n10-r0/state.pt"
    before = project.times()

    with open(project.folder / "killed.txt", "w") as output:
        process = subprocess.Popen(project.command(target), **project.process(), stdout=output, start_new_session=True)
        deadline = time.monotonic() + 120
        while not state.exists():
            assert process.poll() is None, "Snakemake ended before a training state was saved"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert warm.fresh_name() == warm.OFF or len(warmed(process.pid)) == 3  # the server, and the training's two
        os.killpg(process.pid, signal.SIGKILL)  # Snakemake and its jobs at once, as when a node is lost
        process.wait()
        while warmed(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert not training.exists()

    locked = project.snakemake(target, check=False)
    assert locked.returncode != 0
    assert "--unlock" in locked.stdout
    project.snakemake("--unlock")
    project.snakemake(target)
    resumed = json.loads(training.read_text())["resumed_at_image"]
    assert 0 < resumed < 5120
    assert not state.exists()
    after = project.times()
    assert {name: after[name] for name in before} == before  # finished runs were kept

    def outcome(project):
        score = json.loads(project.run_file("score", "labels", "random", "score.json").read_text())
        weights = load_file(project.run_file("train", "labels", "random", "snapshots.safetensors"))
        samples = project.run_file("sample", "labels", "random", "samples.npz").read_bytes()
        return score["snapshots"], {name: array.tobytes() for name, array in weights.items()}, samples

    assert outcome(project) == outcome(undisturbed)
