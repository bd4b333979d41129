# The validated settings, the index of runs, and the paths that all rules share.  Nothing here computes.
# Names start with emm_ or are unusual: a Snakefile shares its namespace with Snakemake's own, where DAG is taken.
import functools
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from emmeter.settings import configuration as emm_configuration
from emmeter.pipeline import index as emm_index
from emmeter.pipeline import freshness as emm_freshness
from emmeter.machine import gpus as emm_gpus
from emmeter.files import layout as emm_layout
from emmeter.machine import warm as emm_warm
from emmeter.machine.process import ENVIRONMENT as ALLOCATOR
from emmeter.files.writing import write_text
from emmeter.pipeline.limits import Limits
from emmeter.stages.published import identities
from emmeter.errors import DataError, SettingsError
from emmeter.command import unnameable
from emmeter.pipeline.description import description

RESULTS = Path("results")
STUDY = "results/studies/{study}"
STATE = "results/state/{key}/n{n}-r{r}"  # what a killed training resumes from
FIGURES = ("curves", "emm", "progress", "gallery")
TABLES = ("emm", "curves", "contrasts", "findings", "onset")


def stop(lines):
    """End the workflow before any job starts, a line for each fault of the configuration."""
    print("\n".join(f"config: {line}" for line in lines), file=sys.stderr)
    sys.exit(1)


TOLD = set()


def tell(kind, lines):
    """Print what the user should know of what is asked for, once, and not in jobs."""
    for line in lines if workflow.is_main_process else ():
        if line not in TOLD:
            print(f"{kind}: {line}", file=sys.stderr)
            TOLD.add(line)


if isinstance(config.get("fit"), str) and config["fit"] != "null" and not os.path.isfile(project_file(config["fit"])):
    stop([f"fit = {config['fit']!r}: no such file"])

try:
    CONFIG = emm_configuration.ordered(config, emm_configuration.load())
    # Which studies are to be made is known when their inputs are asked for: `arm_records` tells what is wrong with them.
    INDEX = emm_index.index_of(emm_configuration.read(CONFIG, asked=()), RESULTS, asked=(), looked=workflow.is_main_process)
    SETTINGS = INDEX.settings
    # A job that a cluster has started has GPUs of its own already.
    GPUS = () if workflow.remote_exec else emm_gpus.devices(SETTINGS.execution)
except (SettingsError, DataError) as error:
    stop(str(error).splitlines())
except UnicodeEncodeError as error:
    stop([unnameable(error)])
LIMITS = Limits(INDEX)
LOOKED_AT = set()  # studies whose images have been looked at

if workflow.is_main_process:
    emm_freshness.adopt(INDEX, Path(".snakemake/metadata"))
    emm_freshness.age(INDEX)


def runs_here(python):
    """Whether a command starts the Python of this process's environment; a script around it does, too."""
    if os.path.dirname(python) == str(Path(sys.executable).parent):
        return True
    asked = [python, "-c", "import sys; print(sys.prefix)"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout.strip() == sys.prefix
    except (OSError, subprocess.TimeoutExpired):
        return False


# A Snakemake that is called by its path, without activation, or with another environment active, starts jobs with the
# Python beside it all the same.
if not (found := shutil.which("python")) or not runs_here(found):
    os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.getenv("PATH", os.defpath)]))
# Every job starts a Python: 2 s with compiled modules, 6 s where a machine forbids to keep them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.update({name: os.getenv(name, value) for name, value in ALLOCATOR.items()})
# Stages start as copies of one process of this workflow.  A job that a cluster has started has one or two: not worth it.
os.environ[emm_warm.VARIABLE] = emm_warm.OFF if workflow.remote_exec else emm_warm.fresh_name()

# So that no more jobs start than find a slot, and the others' cores stay free; `--resources gpu_slots=N` overrides it.
if GPUS and "gpu_slots" not in workflow.global_resources:
    workflow.register_resource("gpu_slots", len(GPUS) * SETTINGS.execution.jobs_per_gpu)


wildcard_constraints:
    key=r"[0-9a-f]{10}",
    n=r"\d+",
    r=r"\d+",
    study="|".join(study.name for study in SETTINGS.studies),


def environment(name):
    """The file of a Conda environment of the project; Snakemake takes braces in it for wildcards."""
    return str(ROOT / name).replace("{", "{{").replace("}", "}}")


HANDED = Path(".snakemake", "emm")  # what is too long for a command line, while the workflow runs
LONGEST = 8192  # characters of an option; Linux takes 131,072, and Snakemake 65,535 of a whole command


def handed(text):
    """An option's value, or where that is long the name of a file that holds it, which argparse reads: @FILE.

    The name says what the file holds, so that Snakemake sees every change.  Text is of one line, and ASCII.
    """
    if len(text) <= LONGEST:
        return text
    path = HANDED / hashlib.sha256(text.encode()).hexdigest()[:16]
    if not workflow.dryrun and not path.exists():
        write_text(path, f"{text}\n")
    return f"@{path}"


def handed_all(files):
    """Names of files as arguments, a line each where they are handed by file."""
    text = "\n".join(map(str, files))
    return list(map(str, files)) if len(text) <= LONGEST else handed(text)


def run_path(stage, name, key="{key}"):
    """Path of a file in the folder of a run, with wildcards {n} and {r}."""
    return str(emm_layout.run_folder(RESULTS, stage, key) / name)


def study_files(study):
    """Everything that one study ends in."""
    folder = RESULTS / "studies" / study
    tables = [folder / f"{name}.csv" for name in TABLES] + [folder / "emm.html"]
    claims = INDEX.study(study).findings.values()
    drawn = FIGURES + (("onset",) if any(claim.expect == "proportional" for claim in claims) else ())
    figures = [folder / f"{name}.{kind}" for name in drawn for kind in ("svg", "png")]
    return [str(path) for path in tables + figures]


def stage_json(stage):
    """The settings of a stage as one JSON string, so that Snakemake sees every change of them."""
    return lambda wildcards: INDEX.json(stage, wildcards.key)


def compare_content():
    """Let Snakemake compare files by content however large they are: a copy of a project has other times.

    `--max-checksum-file-size` does so too, but would have to stand in every profile.  Called by input functions,
    because while this is read there is no DAG yet.
    """
    workflow.dag.max_checksum_file_size = workflow.persistence.max_checksum_file_size = sys.maxsize


def earlier(stage, before, name):
    """Input function: a file of an earlier stage of the same run."""

    def path(wildcards):
        compare_content()
        return run_path(before, name, INDEX.upstream(stage, wildcards.key, before)).format(n=wildcards.n, r=wildcards.r)

    return path


def devices(wildcards):
    """How many devices train the run together."""
    return INDEX.setups["train", wildcards.key].training.gpus


def launcher(processes):
    """What starts a stage: a process that has torch loaded, or torchrun with one process a device."""
    # The last -- because torchrun would take --n for one of its own options.
    several = f"-m torch.distributed.run --standalone --nproc-per-node {processes} -m --"
    return several if processes > 1 else "-m emmeter.machine.warm"


def shared_gpus():
    """The GPUs that jobs claim from one another: this machine's, if jobs run on it."""
    # To a dry run every executor is local; one that submits jobs has a number of nodes.
    submits = workflow.dryrun and workflow.global_resources["_nodes"].value is not None
    return GPUS if workflow.local_exec and not submits else ()


def gpu_slots(count=lambda wildcards: 1):
    """Resource function: how many slots on GPUs a job claims."""
    return lambda wildcards: count(wildcards) if shared_gpus() else 0


@functools.cache
def missing_gpus():
    """End the workflow if its jobs would run on this machine and miss the GPUs that they are to use."""
    # Without an executor no job runs: a report is made.  A number of nodes: as for `shared_gpus`.
    here = workflow.executor_plugin is not None and workflow.local_exec and workflow.is_main_process
    if here and workflow.global_resources["_nodes"].value is None:
        if lines := emm_gpus.missing(SETTINGS.execution):
            stop(lines)


def gpu_claim(count=lambda wildcards: 1):
    """Parameter function: what to put before a job's command, so that it waits for its slots and sees their GPUs alone.

    It takes `resources` because Snakemake then takes no change of it for a change of the results.
    """

    def claim(wildcards, resources):
        missing_gpus()
        try:
            return shlex.join(emm_gpus.claim(shared_gpus(), SETTINGS.execution, count(wildcards)))
        except SettingsError as error:
            stop(str(error).splitlines())

    return claim


def cluster_gpus(count=lambda wildcards: 1):
    """Resource function: how many GPUs a job asks of a cluster."""
    return lambda wildcards: 0 if SETTINGS.execution.device == "cpu" else count(wildcards)


def weights(wildcards):
    """Snapshots of the run; the theoretical optimum has none."""
    if INDEX.is_optimum("sample", wildcards.key):
        return []
    return earlier("sample", "train", "snapshots.safetensors")(wildcards)


def training_state(wildcards):
    """The training state behind samples, which nobody needs once they are there."""
    return STATE.format(key=INDEX.upstream("sample", wildcards.key, "train"), n=wildcards.n, r=wildcards.r)


def minutes(stage):
    """Resource function: the time limit of a stage's job on a cluster."""

    def limit(wildcards, attempt):
        # Neither local jobs nor the job itself, which asks again, need the estimate that loads torch.
        cheap = not (workflow.is_main_process and workflow.non_local_exec_or_dryrun)
        return LIMITS.minutes(stage, wildcards.key, int(wildcards.n), attempt, known=not cheap)

    return limit


def records(wildcards):
    """Records of what the run cost so far."""
    sampling = earlier("score", "sample", "sampling.json")(wildcards)
    if INDEX.is_optimum("score", wildcards.key):
        return [sampling]
    return [earlier("score", "train", "training.json")(wildcards), sampling]


def asked_studies():
    """The studies that this workflow was asked for, by the names of rules or files; what is unknown asks for none."""
    targets = {str(target) for target in workflow.dag_settings.targets} if workflow.dag_settings else set()
    if not targets or targets & {"all", "findings", "summary", "findings_table", "published", "report"}:
        return list(SETTINGS.selected)
    joined = any(Path(target).parent == RESULTS for target in targets)
    return [
        study.name
        for study in SETTINGS.studies
        if study.name in targets
        or any(RESULTS / "studies" / study.name in Path(target).parents for target in targets)
        or (joined and study.name in SETTINGS.selected)
    ]


def look_at(study):
    """Say what the user's data behind a study hold; one that cannot run here ends the workflow with why.

    With that of all selected studies, if it is one of them: they are asked for together as a rule.
    """
    asked = SETTINGS.selected if study in SETTINGS.selected else [study]
    if INDEX.faults([study]):
        stop(INDEX.faults(asked))
    LOOKED_AT.add(study)
    tell("data", INDEX.portraits([study]))
    tell("note", INDEX.notices(asked))


def arm_records(wildcards):
    """The finished searches of a study's arms, in order; before any job starts the study's images are looked at."""
    # A job of a cluster need not look again.
    if wildcards.study in INDEX.impossible or (workflow.is_main_process and wildcards.study not in LOOKED_AT):
        look_at(wildcards.study)
    return INDEX.emm_files(wildcards.study)


def pending_scores(wildcards):
    """Scores that any study asked for still waits for: the scatter of runs is learned from all of them together.

    Empty once all searches have finished, so that a study's inputs are the same whatever else was asked for.  Naming
    scores, which are checkpoints, lets Snakemake ask again after each.
    """
    return INDEX.pending({*asked_studies(), wildcards.study})


def prior_json(wildcards):
    """Scatter of the runs of all finished arms, as study.py takes it; null without, and while searches are under way."""
    if pending_scores(wildcards) or (prior := INDEX.prior()) is None:
        return "null"
    return json.dumps({name: float(f"{value:.6g}") for name, value in vars(prior).items()}, sort_keys=True)


def arms_of_score(wildcards, most=10):
    """Names of the arms that a score serves; of hundreds the first, or they would fill the command line."""
    first, more = (names := INDEX.arms("score", wildcards.key).split(", "))[:most], len(names) - most
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")


def galleries(wildcards):
    return [path.with_name("gallery.npz") for path in arm_records(wildcards)]


def description_json(wildcards):
    return handed(json.dumps(description(INDEX, wildcards.study), sort_keys=True))


def figure(name, result, listed=report):
    """The SVG and PNG of one figure, listed in the report under one row."""
    return [
        listed(
            f"{STUDY}/{name}.{kind}",
            caption=f"../report/{name}.rst",
            category="Studies",
            subcategory="{study}",
            labels={"result": result, "as": kind.upper()},
        )
        for kind in ("svg", "png")
    ]


def print_waiting():
    """After a failure: which studies have all their runs, and how to get their tables, which wait for all others'."""
    asked = asked_studies()
    ready = [name for name in asked if name not in INDEX.impossible and not INDEX.pending([name])]
    if ready and INDEX.pending(asked):
        print(
            f"Tables wait for the runs of all studies, which tell one another's scatter. These have all of theirs: "
            f"`snakemake {' '.join(ready)}` makes their tables without the others.",
            file=sys.stderr,
        )


def print_summary():
    """The answer at the end of a run that makes studies: one line an arm of these, and where the rest is."""
    made = {job.wildcards.study for job in workflow.dag.jobs if job.rule.name == "study"}
    if names := [study.name for study in SETTINGS.studies if study.name in made]:
        shown = ["--report"] if any(job.rule.name == "report" for job in workflow.dag.jobs) else []
        subprocess.run([sys.executable, "-m", "emmeter.cli", "summary", *names, *shown], check=False)
