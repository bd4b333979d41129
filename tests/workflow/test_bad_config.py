"""A wrong configuration is reported before anything starts: one line per fault, with the key, its value and what is
allowed."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from emmeter import errors
from emmeter.pipeline.index import index_of
from emmeter.settings import configuration

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
NONE = ("studies", "labels", "arms", "none")
FILE = ("studies", "own", "arms", "file")
IN_NONE, IN_FILE = "studies.labels.arms.none: ", "studies.own.arms.file: "

# Key, value, and the beginning and a part of the line that reports it.
THROUGH_SNAKEMAKE = [
    ("search.epsilon", 1.5, "search.epsilon = 1.5: ", "less than 1"),
    ((*NONE, "data.label"), "none", f"{IN_NONE}data.label: ", "did you mean 'labels'"),
    ((*NONE, "search.n_max"), 1750, f"{IN_NONE}search.n_max = 1750: ", "at most 1740"),
    ((*NONE, "network.skips"), [1, 0], f"{IN_NONE}network.skips = [1, 0]: ", "4 flags"),
    ((*FILE, "data.source"), "npz:gone.npz", f"{IN_FILE}data.source = 'npz:gone.npz': gone.npz: ", "No such file"),
    ((*FILE, "data.source"), "svhn", f"{IN_FILE}data.source = 'svhn': data/train_32x32.mat: ", "data.download: true"),
    ((*FILE, "data.source"), "npz:same.npz", f"{IN_FILE}data.source = 'npz:same.npz': its 100 images", "all the same"),
    (
        (*FILE, "data.source"),
        "npz:~no-one/a.npz",
        f"{IN_FILE}data.source = 'npz:~no-one/a.npz': ",
        "home folder ~no-one",
    ),
    ("execution.device", "cuda", "execution.device = 'cuda': ", "no GPU that CUDA sees"),
    ("run", ["label"], "run = 'label': ", "did you mean 'labels'"),
    ("fit", 3, "fit = 3: ", "string"),
]


def assert_nothing_written(project):
    assert not (project.folder / "results").exists()
    assert not (project.folder / "logs").exists()


@pytest.mark.parametrize(("path", "value", "start", "part"), THROUGH_SNAKEMAKE)
def test_snakemake_stops_with_one_line(empty, path, value, start, part, monkeypatch):
    monkeypatch.setenv(*next(iter(NO_GPU.items())))
    np.savez(empty.folder / "same.npz", images=np.ones((100, 8, 8), np.uint8), labels=np.arange(100) % 10)
    empty.change(path, value)
    done = empty.snakemake(check=False)
    assert done.returncode != 0
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {start}")
    assert part in line
    assert "Traceback" not in done.stdout
    assert_nothing_written(empty)


def test_all_faulty_images_are_named_before_anything_starts(empty):
    for index in range(24):
        (empty.folder / "photos" / str(index % 12)).mkdir(parents=True, exist_ok=True)
        path = empty.folder / "photos" / str(index % 12) / f"{index}.png"
        Image.fromarray(np.full((8, 8), index, np.uint8)).save(path)
        if index in (5, 17, 22):
            path.write_text("damaged")
    (empty.folder / "photos" / "README").write_text("ignored")
    empty.change((*FILE, "data.source"), "folder:photos")
    empty.change((*FILE, "data.balanced"), False)
    empty.change((*FILE, "search.grid"), [10, 20])
    done = empty.snakemake("--dry-run", check=False)
    assert done.returncode != 0 and "Traceback" not in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert [line.partition("photos': ")[2].partition(": ")[0] for line in lines] == [
        "photos/5/5.png", "photos/5/17.png", "photos/10/22.png"
    ]  # fmt: skip
    assert_nothing_written(empty)
    empty.change((*FILE, "data.classes"), [0, 1, 2, 3, 4, 6, 7, 8, 9, 11])  # without them it can start
    done = empty.snakemake("--dry-run")
    assert [line for line in done.stdout.splitlines() if line.startswith("data: ")] == [
        "data: folder:photos: 24 images 8x8x1 in 12 classes: " + ", ".join(f"{i} {i} (2)" for i in range(12)),
        "data: folder:photos: ignored 1 file that is no image (README)",
    ]


def test_values_of_the_command_line_are_checked_too(empty):
    done = empty.snakemake("--config", "sampling={step: 5}", "search={epsilon: 2}", check=False)
    assert done.returncode != 0
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("error: ")) == [
        "error: sampling.step: is not a key of sampling; did you mean 'steps'?",
        "error: search.epsilon = '2': must be less than 1",
    ]
    assert_nothing_written(empty)


@pytest.mark.parametrize(("path", "value"), [((*NONE, "search.start"), 5), ((*NONE, "data.classes"), [0, 12])])
def test_a_fault_of_a_study_matters_only_if_the_study_is_requested(empty, path, value):
    """Reading the settings shows the first fault, looking at the data the second."""
    empty.change(path, value)
    line = f"error: {IN_NONE}{path[-1]} = {value}: "
    for targets, refused in (["own"], False), (["own", "denoiser"], False), (["own", "labels"], True), ([], True):
        done = empty.snakemake(*targets, "--dry-run", check=False)
        assert (done.returncode != 0, line in done.stdout) == (refused, refused), done.stdout


def test_notes_are_shown_once_and_only_of_requested_studies(empty):
    empty.change("search", {"n_min": 5, "n_max": 20, "start": 10, "steps_per_octave": 1, "confirm": 0})
    bounds = "search.n_min = 5 becomes 10: sizes are multiples of the 10 classes, unless data.balanced is false"
    images = "data: npz:own.npz: 100 images 8x8x1 in 10 classes: "
    for target, notes in (
        ("labels", [f"note: studies.labels.arms.none and 1 more: {bounds}"]),
        ("own", [images]),
    ):
        output = empty.snakemake(target, "--dry-run", "--config", f"run={target}").stdout
        lines = [line for line in output.splitlines() if line.startswith(("note: ", "data: "))]
        assert len(lines) == len(notes) and all(map(str.startswith, lines, notes)), lines


def test_the_command_line_may_drop_the_fit(empty):
    assert "error: fit" not in empty.plan("own", "--config", "fit=null").output
    done = empty.snakemake("own", "--config", "fit=nowhere.yaml", check=False)
    assert done.returncode != 0
    assert "error: fit = 'nowhere.yaml': no such file\n" in done.stdout


def test_an_overlay_whose_fit_is_missing_is_refused(empty):
    empty.configure({"fit": "nowhere.yaml"}, "overlay.yaml")
    done = empty.snakemake("--configfile", "overlay.yaml", check=False)
    assert done.returncode != 0
    assert "error: fit = 'nowhere.yaml': no such file\n" in done.stdout
    assert_nothing_written(empty)


ONE_LINE = [
    # sizes and the data
    ((*FILE, "search.grid"), [10, 15], f"{IN_FILE}search.grid = [10, 15]: ", "multiples of 10, the number of classes"),
    ((*FILE, "search.grid"), [10, 90], f"{IN_FILE}search.grid = [10, 90]: ", "at most 80"),
    ((*FILE, "search.grid"), [], f"{IN_FILE}search.grid = []: ", "increasing sizes"),
    ((*FILE, "search.grid"), [20, 10], f"{IN_FILE}search.grid = [20, 10]: ", "increasing sizes"),
    ("search.n_min", 30, "search.n_min = 30: ", "below n_max = 20"),
    ("search.start", 5, "search.start = 5: ", "between n_min = 10 and n_max = 20"),
    ("search.n_max", "many", "search.n_max = 'many': ", "integer"),
    ((*FILE, "data.classes"), [0, 10], f"{IN_FILE}data.classes = [0, 10]: ", "0 to 9"),
    ((*NONE, "data.classes"), [3, 3], f"{IN_NONE}data.classes = [3, 3]: ", "none twice"),
    ((*NONE, "data.resolution"), 16, f"{IN_NONE}data.resolution = 16: ", "at most 8"),
    ((*FILE, "data.source"), "npz:text.npz", f"{IN_FILE}data.source = 'npz:text.npz': text.npz: ", "not an .npz"),
    ((*FILE, "data.source"), "npz:floats.npz", f"{IN_FILE}data.source = 'npz:floats.npz': floats.npz: ", "uint8"),
    ((*FILE, "data.source"), "folder:images", f"{IN_FILE}data.source = 'folder:images': images: ", "No such file"),
    ((*FILE, "data.source"), "cifra10", f"{IN_FILE}data.source = 'cifra10': ", "did you mean 'cifar10'"),
    ((*FILE, "data.labels"), "random-0", f"{IN_FILE}data.labels = 'random-0': ", "K >= 1"),
    # the network
    ((*NONE, "network.attention"), [16], f"{IN_NONE}network.attention = [16]: ", "allowed: 8, 4"),
    ((*NONE, "network.multipliers"), [1] * 5, f"{IN_NONE}network.multipliers = [1, 1, 1, 1, 1]: ", "divisible by 16"),
    ("network.channels", 9, "network.channels = 9: ", "multiple of 2"),
    ("network.architecture", "ddpm++", "network.architecture = 'ddpm++': ", "did you mean 'ddpmpp'"),
    # training, sampling, scoring
    ("training.duration", "40 epoch", "training.duration = '40 epoch': ", "200 epochs"),
    ("training.duration", "40 %", "training.duration = '40 %': ", "images or epochs"),
    ("training.learning_rate", float("nan"), "training.learning_rate = nan: ", "finite"),
    ("training.snapshots", [0.5], "training.snapshots = [0.5]: ", "end with 1.0"),
    ("sampling.ema_decay", 0.5, "sampling.ema_decay = 0.5: ", "training.ema_decays = [0.9]"),
    ("sampling.sigma_min", 100, "sampling.sigma_min = 100: ", "below sigma_max = 80"),
    ("scoring.threshold", 1.0, "scoring.threshold = 1.0: ", "less than 1"),
    ("scoring.neighbours", 1, "scoring.neighbours = 1: ", "2"),
    # the search
    ("search.epsilon", 0, "search.epsilon = 0: ", "greater than 0"),
    ("search.epsilon", 1, "search.epsilon = 1: ", "less than 1"),
    ("search.epsilon", "a tenth", "search.epsilon = 'a tenth': ", "number"),
    ("search.confirm", 2, "search.confirm = 2: ", "at least 4"),
    # names
    ("sampler", {"steps": 5}, "sampler: ", "did you mean 'sampling'"),
    ("sampling.image", 5, "sampling.image: ", "did you mean 'images'"),
    ("execution.device", "gpu", "execution.device = 'gpu': ", "'cuda'"),
    ((*NONE, "dta.labels"), "none", f"{IN_NONE}dta.labels: ", "did you mean 'data'"),
    ((*NONE, "execution.threads"), 2, f"{IN_NONE}execution.threads: ", "not a section"),
    ((*NONE, "data"), "none", f"{IN_NONE}data: is a section; override its keys one by one", ""),
    (("studies", "own", "factor"), "data.sources", "studies.own.factor: data.sources: ", "did you mean 'source'"),
    (("studies", "own", "arms", "a b"), {}, "studies.own.arms.a b: ", "letters"),
    (("studies", "train"), {"arms": {"a": {}}}, "studies.train: ", "none of"),
    (("studies", "own", "arms"), {}, "studies.own.arms = {}: ", "at least 1"),
    ("studies", None, "studies = None: ", ""),
    ("seed", -1, "seed = -1: ", "0"),
    # images that are alike
    (
        (*FILE, "data.source"),
        "npz:same.npz",
        f"{IN_FILE}data.source = 'npz:same.npz': its 50 images ",
        "two that differ",
    ),
    ((*FILE, "data.source"), "folder:same", f"{IN_FILE}data.source = 'folder:same': its 20 images ", "two that differ"),
    (
        (*FILE, "data.source"),
        "npz:twice.npz",
        f"{IN_FILE}data.source = 'npz:twice.npz': replicate 0 ",
        "grid from 37 on",
    ),
]


@pytest.fixture
def project(empty, monkeypatch):
    """The project without results, as the working folder, with some unusable files."""
    monkeypatch.chdir(empty.folder)
    (empty.folder / "text.npz").write_text("images")
    np.savez(empty.folder / "floats.npz", images=np.zeros((50, 8, 8)))
    varied = np.arange(50, dtype=np.uint8)[:, None, None] + np.zeros((8, 8), np.uint8)
    np.savez(empty.folder / "unlabelled.npz", images=varied)
    np.savez(empty.folder / "same.npz", images=np.zeros((50, 8, 8), np.uint8))
    np.savez(empty.folder / "twice.npz", images=np.where(np.arange(50)[:, None, None] < 47, varied[-1], varied[:1]))
    (empty.folder / "same").mkdir()
    for i in range(20):
        Image.fromarray(varied[0]).save(empty.folder / "same" / f"{i}.png")
    return empty


def faults(project):
    """The lines with which a configuration is refused."""
    with pytest.raises(errors.SettingsError) as caught:
        index_of(configuration.read(project.config()), project.folder / "results")
    return str(caught.value).splitlines()


@pytest.mark.parametrize(("path", "value", "start", "part"), ONE_LINE)
def test_one_fault_is_one_line(project, path, value, start, part):
    project.change(path, value)
    (line,) = faults(project)
    assert line.startswith(start)
    assert part in line


def test_the_configuration_of_the_other_tests_is_right(project):
    index_of(configuration.read(project.config()), project.folder / "results")


def test_true_labels_need_labels(project):
    project.change((*FILE, "data.source"), "npz:unlabelled.npz")
    project.change((*FILE, "data.labels"), "true")
    (line,) = faults(project)
    assert line.startswith(f"{IN_FILE}data.labels = 'true': ")
    assert "npz:unlabelled.npz has no labels" in line


def test_missing_data_matter_only_to_selected_studies(project):
    project.change((*FILE, "data.source"), "cifar10")
    project.change("run", ["labels", "denoiser"])
    index_of(configuration.read(project.config()), project.folder / "results")


def test_two_faults_are_two_lines(project):
    project.change("search.epsilon", 2)
    project.change("scoring.threshold", 2)
    assert sorted(line.split(" = ")[0] for line in faults(project)) == ["scoring.threshold", "search.epsilon"]


@pytest.mark.parametrize(
    ("path", "value"),
    [("search.n_max", 100_000), ("network.attention", [16]), ("network.multipliers", [1] * 5)],
)
def test_a_fault_of_the_base_settings_is_reported_once(project, path, value):
    project.change(path, value)
    (line,) = faults(project)
    assert f"{path} = {value}: " in line


@pytest.mark.parametrize("value", ["label", [], ["labels", "label"]])
def test_run_names_studies(project, value):
    project.change("run", value)
    (line,) = faults(project)
    assert line.startswith("run = ")


def test_emm_check_reports_the_same_without_snakemake(project):
    command = [sys.executable, "-m", "emmeter.cli", "check"]
    good = subprocess.run(command, capture_output=True, text=True)
    assert (good.returncode, good.stderr) == (0, "")
    assert "labels *: none, random" in good.stdout
    assert "npz:own.npz: 100 images 8x8x1 in 10 classes" in good.stdout
    overlay = project.folder / "overlay.yaml"
    overlay.write_text("search: {epsilon: 1.5}\n")
    bad = subprocess.run([*command, "overlay.yaml"], capture_output=True, text=True)
    assert bad.returncode == 1
    assert bad.stderr == "error: search.epsilon = 1.5: must be less than 1\n"
    overlay.write_text("execution: {device: cuda}\n")
    blind = subprocess.run([*command, "overlay.yaml"], capture_output=True, text=True, env=os.environ | NO_GPU)
    assert blind.returncode == 1
    assert blind.stderr.startswith("error: execution.device = 'cuda': this machine has no GPU that CUDA sees")
    assert blind.stderr.count("\n") == 1
    overlay.write_text("search: {epsilon: [\n")
    broken = subprocess.run([*command, "overlay.yaml"], capture_output=True, text=True)
    assert broken.returncode == 1
    assert broken.stderr.startswith("error: overlay.yaml: is not YAML")
    assert broken.stderr.count("\n") == 1
