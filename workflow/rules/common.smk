# What all rules share: settings, index of runs, and functions that need Snakemake's own objects.  All other logic is in
# emmeter.pipeline.  A Snakefile shares its namespace with Snakemake, where DAG for example is taken; hence emm_.
import dataclasses
import functools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from emmeter.command import ARMS, unnameable
from emmeter.errors import DataError, SettingsError
from emmeter.files import layout as emm_layout
from emmeter.files import provenance as emm_provenance
from emmeter.machine import gpus as emm_gpus
from emmeter.machine import warm as emm_warm
from emmeter.pipeline import description as emm_description
from emmeter.pipeline import experiment as emm_experiment
from emmeter.pipeline import freshness as emm_freshness
from emmeter.pipeline import index as emm_index
from emmeter.pipeline import jobs as emm_jobs
from emmeter.pipeline import live as emm_live
from emmeter.pipeline import options as emm_options
from emmeter.pipeline import paths as emm_paths
from emmeter.pipeline import requests as emm_requests
from emmeter.pipeline.course import Course
from emmeter.settings import configuration as emm_configuration
from emmeter.settings import published as emm_published


def stop(lines):
    """End the workflow before any job starts, with one line per fault of the configuration."""
    print("\n".join(f"error: {line}" for line in lines), file=sys.stderr)
    sys.exit(1)


def literal(text):
    """A text in which Snakemake fills in nothing."""
    return text.replace("{", "{{").replace("}", "}}")


def environment(name):
    """The file of a Conda environment of the project."""
    return literal(str(ROOT / name))


# Rules name results/...; a module statement may move this folder by its `prefix` or `replace_prefix`.
MOVED = workflow.modifier.path_modifier.replace_prefix
RESULTS = Path(str(MOVED("results/")))


def require_moved_whole(folder):
    """End the workflow if a module statement moves a folder of results to another place than the others."""
    moved = Path(str(MOVED(f"results/{folder}/file"))).parent
    if moved != RESULTS / folder:
        stop([f"replace_prefix: moves results/{folder} to {moved}: must move results/ as a whole"])


require_moved_whole("runs")
if not re.fullmatch(r"[\w/.+-]+", str(RESULTS)):
    stop([f"prefix: moves results to {str(RESULTS)!r}: must hold only letters, digits and _ . + - /"])

try:
    # In a module without `config:`, Snakemake leaves `config` empty; the command line counts there, too.
    CONFIG = config or workflow.config_settings.overwrite_config
    if not workflow.config_settings.replace_workflow_config:
        CONFIG = emm_configuration.load(folder=FOLDER, given=CONFIG)
        workflow.configfiles.extend(map(str, emm_configuration.files(CONFIG, FOLDER)))  # shown in the report
    # Requested studies are known only when Snakemake evaluates their inputs, so `look` reports their faults.
    INDEX = emm_index.index_of(
        emm_configuration.read(CONFIG, asked=()), RESULTS, asked=(), looked=workflow.is_main_process
    )
    SETTINGS = INDEX.settings
    # A job that a cluster has started has GPUs of its own already.
    GPUS = () if workflow.remote_exec else emm_gpus.devices(SETTINGS.execution)
except (SettingsError, DataError) as error:
    stop(error.lines)
except UnicodeEncodeError as error:
    stop([unnameable(error)])

# As a module, stages are told where results and the project's files are; else they are in the working directory.
MOVED_OPTION = f" --results {RESULTS}" if IS_MODULE else ""
FOLDER_OPTION = f" --folder {literal(shlex.quote(str(ROOT)))}" if IS_MODULE else ""
PATHS = emm_paths.Paths(INDEX, Path("results"))
EXPERIMENT = f"results/{INDEX.experiment.name}"  # the folder of the tables of this configuration
STUDY = f"{EXPERIMENT}/{{study}}"
require_moved_whole(INDEX.experiment.name)
LOOKS = emm_requests.Looks(INDEX)
# Rules by the names that they have in the whole workflow: a module statement may rename them, or leave some out.
RULES = {
    workflow.modifier.modify_rulename(name): name
    for name in (*emm_configuration.RULES, *(study.name for study in SETTINGS.studies))
    if workflow.modifier.avail_rulename(name)
}

if workflow.is_main_process:
    if elsewhere := emm_experiment.notice(INDEX.experiment, SETTINGS.name):
        print(elsewhere, file=sys.stderr)
    emm_freshness.adopt(INDEX, Path(".snakemake/metadata"))
    emm_freshness.age(INDEX)

os.environ.update(emm_jobs.environment(os.environ))
if workflow.is_main_process:  # by environment: as a parameter, every other command would make the page again
    os.environ[emm_provenance.COMMAND] = shlex.join(["uv", "run", "snakemake", *sys.argv[1:]])
# Every job starts Python: 2 s with compiled modules, 6 s where Python may not keep them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Stages start as copies of one process of this workflow.  For the one or two of a cluster's job that is not worth it.
os.environ[emm_warm.VARIABLE] = emm_warm.OFF if workflow.remote_exec else emm_warm.fresh_name()


wildcard_constraints:
    key=r"[0-9a-f]{10}",
    n=r"\d+",
    r=r"\d+",
    study="|".join(study.name for study in SETTINGS.studies),


def handed(text):
    """An option's value, by file if it is long."""
    return emm_options.handed(text, write=not workflow.dryrun)


def handed_all(files):
    """Names of files as arguments, by file if they are long."""
    return emm_options.handed_files(files, write=not workflow.dryrun)


def stage_json(stage):
    """Parameter function: the settings of a stage as one JSON string, so that Snakemake sees every change of them."""
    return lambda wildcards: INDEX.json(stage, wildcards.key)


def by_content(path):
    """Input function: a path of the run, of which Snakemake compares the content, however large the file is.

    A copy of a project has other times.  The option --max-checksum-file-size would have to be in every profile.
    The limit is set here because there is no DAG yet while this file is read.
    """

    def compared(wildcards):
        workflow.dag.max_checksum_file_size = workflow.persistence.max_checksum_file_size = sys.maxsize
        return path(wildcards)

    return compared


def earlier(stage, before, name):
    """Input function: a file of an earlier stage of the same run."""
    return by_content(lambda wildcards: PATHS.earlier(stage, before, name, wildcards))


def print_waiting():
    """After a failure, name the studies that have all their runs, and how to get their tables."""
    rest()
    if ready := emm_requests.ready(INDEX, asked_studies()):
        print(emm_requests.waiting([rule for rule, name in RULES.items() if name in ready]), file=sys.stderr)


def handlers():
    """The handlers of the logger plugin of this project, if it is in use."""
    return [handler for handler in workflow.logger_manager.plugin_handlers if hasattr(handler, "attach")]


def rest():
    """Let the logger plugin finish its lines, because the workflow prints now."""
    for handler in handlers():
        handler.rest(workflow.logger_manager.queue_listener.queue)


def finish():
    """After a run, delete the files of options; if it made studies, print their tables, and where to find figures."""
    emm_options.clear()
    rest()
    jobs = [(RULES.get(job.rule.name), job.wildcards) for job in workflow.dag.jobs]
    made = {wildcards.study for rule, wildcards in jobs if rule == "study"}
    if names := [study.name for study in SETTINGS.studies if study.name in made]:
        pages = [
            path for job in workflow.dag.jobs if RULES.get(job.rule.name) in emm_paths.PAGES for path in job.output
        ]
        command = [
            sys.executable,
            "-m",
            "emmeter.cli",
            "--results",
            str(RESULTS),
            "summary",
            "--name",
            INDEX.experiment.name,
        ]
        subprocess.run([*command, *names, "--made", *pages], check=False)
