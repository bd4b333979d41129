"""The workflow as a module of another one: as it is, renamed, moved to another folder, with and without settings."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from project import CONFIG, JOINED, Project, fresh

RUNS = {"subset": 3, "sample": 4, "train": 2, "score": 4, "emm": 4, "quality": 4}  # of the tiny configuration
ALL = RUNS | {
    "study": 3,
    "figures": 3,
    "quality_table": 3,
    "tradeoff": 3,
    "criteria_table": 3,
    **dict.fromkeys(JOINED, 1),
    "report": 1,
    "all": 1,
}
OWN = {"subset": 1, "sample": 1, "score": 1, "emm": 1, "study": 1}
SHOWN = {
    "figures": 1,
    "quality": 1,
    "quality_table": 1,
    "tradeoff": 1,
    "criteria_table": 1,
}  # what its study has besides


@pytest.fixture(scope="module")
def emm(tmp_path_factory) -> Project:
    """The project that other workflows use; nothing is written there."""
    return fresh(tmp_path_factory.mktemp("module") / "emm")


@pytest.fixture
def around(emm, tmp_path) -> Project:
    """Another workflow without rules, whose own settings are in a file of the same name."""
    folder = tmp_path / "around"
    folder.mkdir()
    (folder / "config.yaml").write_text("samples: samples.tsv\n")
    shutil.copy2(emm.folder / "own.npz", folder)
    return Project(folder)


def write(around: Project, emm: Project, module: str = "", use: str = "", rules: str = "", head: str = "") -> None:
    """Write the Snakefile of the workflow around the module."""
    snakefile = f'"{emm.folder}/workflow/Snakefile"'
    text = f"{head}\n\nmodule emm:\n    snakefile: {snakefile}\n    {module}\n\nuse rule * from emm {use}\n\n{rules}\n"
    (around.folder / "Snakefile").write_text(text)


def counts(output: str) -> dict[str, int]:
    """Number of planned jobs by rule."""
    table = re.search(r"Job stats:\njob +count\n[- ]+\n((?:\S+ +\d+\n)+)", output)
    assert table is not None, output
    jobs = {name: int(n) for name, n in re.findall(r"(\S+) +(\d+)\n", table[1])}
    del jobs["total"]
    return jobs


def planned(around: Project, *arguments: object) -> dict[str, int]:
    output = around.snakemake(*arguments, "--dry-run", "--cores", 1).stdout
    assert "Traceback" not in output
    return counts(output)


def renamed(jobs: dict[str, int]) -> dict[str, int]:
    return {f"emm_{name}": n for name, n in jobs.items()}


def test_as_it_is_without_settings(around, emm):
    """The settings are the project's, although the working directory has a file of the same name."""
    write(around, emm)
    assert planned(around) == ALL
    assert planned(around, "results/digits/own/emm.csv") == OWN
    assert planned(around, "own", "--config", "sampling={images: 5}") == OWN | SHOWN | {"study_report": 1, "own": 1}
    assert sorted(path.name for path in around.folder.iterdir()) == [
        ".snakemake",
        "Snakefile",
        "config.yaml",
        "own.npz",
    ]


@pytest.mark.parametrize("root", ["", "workflow/"])
def test_renamed_with_empty_settings(around, emm, root):
    write(around, emm, "config: config", "as emm_*")
    path = around.folder / "Snakefile"
    path.write_text(path.read_text().replace("/workflow/Snakefile", f"/{root}Snakefile"))
    assert planned(around) == renamed(ALL)
    assert planned(around, "emm_own") == renamed(OWN | SHOWN | {"study_report": 1, "own": 1})


def test_moved_with_settings(around, emm):
    write(around, emm, 'prefix: "sub"\n    config: config["emm"]', head='configfile: "config.yaml"')
    (around.folder / "config.yaml").write_text("samples: a.tsv\nemm: {run: own, sampling: {images: 5}}\n")
    output = around.snakemake("--dry-run", "--printshellcmds", "--cores", 1).stdout
    assert counts(output) == OWN | SHOWN | {**dict.fromkeys(JOINED, 1), "report": 1, "all": 1}
    for command in re.findall(r"python -m .*", output):
        assert not re.search(r"(?<![-/\w])results", command), command
    assert planned(around, "sub/results/digits/own/emm.csv") == OWN


def test_moved_renamed_and_asked_for_by_rules_around_it(around, emm):
    rules = 'rule all:\n    default_target: True\n    input: "out/r/digits/own/emm.csv", rules.emm_denoiser.input\n'
    write(around, emm, 'replace_prefix: {"results/": "out/r/"}', "exclude all as emm_*", rules)
    jobs = planned(around)
    assert jobs.pop("all") == 1
    assert jobs == renamed(
        {"subset": 2, "train": 1, "sample": 3, "score": 3, "emm": 3, "study": 2}
        | SHOWN
        | {"quality": 2, "study_report": 1}
    )


def refusal(around: Project) -> str:
    done = around.snakemake("--dry-run", "--cores", 1, check=False)
    assert done.returncode != 0 and "Traceback" not in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(
    ("module", "line"),
    [
        (
            'prefix: "my folder"',
            "prefix: moves results to 'my folder/results': must hold only letters, digits and _ . + - /",
        ),
        (
            'replace_prefix: {"results/digits/": "digits/"}',
            "replace_prefix: moves results/digits to digits: must move results/ as a whole",
        ),
        (
            'replace_prefix: {"results/runs/": "runs/"}',
            "replace_prefix: moves results/runs to runs: must move results/ as a whole",
        ),
        ('config: {"samples": "samples.tsv"}', "samples: is not a key; did you mean 'sampling'?"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(around, emm, module, line):
    write(around, emm, module)
    assert refusal(around) == f"error: {line}"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_repository_that_is_no_folder_is_refused(around, emm, tmp_path):
    shutil.copytree(emm.folder, tmp_path / "repository")
    git = ["git", "-C", str(tmp_path / "repository"), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "All"]):
        subprocess.run([*git, *words], check=True)
    write(around, emm)
    path = around.folder / "Snakefile"
    source = f'gitfile("{tmp_path / "repository"}", path="workflow/Snakefile", commit="HEAD")'
    path.write_text(re.sub(r'snakefile: ".*"', f"snakefile: {source}", path.read_text()))
    assert "this workflow must be a folder on this machine" in refusal(around)


@pytest.mark.exhaustive
def test_a_moved_and_renamed_module_makes_its_results(around, emm):
    emm_config = {"run": ["own", "labels"], "figures": {"dpi": CONFIG["figures"]["dpi"]}}
    rules = (
        'rule all:\n    default_target: True\n    input: rules.emm_all.input\n    output: "done"\n'
        '    shell: "touch {output}"\n\nonsuccess:\n    emm.finish()\n'
    )
    write(around, emm, f'prefix: "sub"\n    config: {emm_config}', "as emm_*", rules)
    output = around.snakemake("--cores", 2).stdout
    assert re.search(r"^own +file +≥ 10 ", output, re.MULTILINE), output
    assert "report   sub/results/digits/report.html" in output
    assert {path.name for path in around.folder.iterdir()} == {
        ".snakemake", "Snakefile", "config.yaml", "own.npz", "sub", "done",
    }  # fmt: skip
    page = (around.folder / "sub/results/digits/report.html").read_text(encoding="utf-8")
    assert 'id="study-own"' in page
    assert "Nothing to be done" in around.snakemake("--dry-run", "--cores", 1).stdout
    assert not Path(emm.folder, "results").exists()
