# What jobs request from this machine or from a cluster: GPUs, and time.
import functools
import shlex

from emmeter.pipeline import compiling as emm_compiling
from emmeter.pipeline.limits import Limits

LIMITS = Limits(INDEX)

# Only as many jobs start as find a slot; the cores of the others stay free.
if GPUS and "gpu_slots" not in workflow.global_resources:  # --resources gpu_slots=N takes precedence
    workflow.register_resource("gpu_slots", len(GPUS) * SETTINGS.execution.jobs_per_gpu)


def devices(wildcards):
    """The number of GPUs that train a run together."""
    return INDEX.setups["train", wildcards.key].training.gpus


def submits():
    """Check whether jobs go to a cluster: in a dry run every executor is local, but then a number of nodes is given."""
    return workflow.global_resources["_nodes"].value is not None


def shared_gpus():
    """The GPUs that jobs claim from one another: those of this machine, if jobs run on it."""
    return GPUS if workflow.local_exec and not (workflow.dryrun and submits()) else ()


def gpu_slots(count=lambda wildcards: 1):
    """Resource function: the number of slots on GPUs that a job claims."""
    return lambda wildcards: count(wildcards) if shared_gpus() else 0


@functools.cache
def require_gpus():
    """End the workflow if its jobs would run on this machine and miss the GPUs that they are to use."""
    # While a report is made, there is no executor, and no job runs.
    here = workflow.executor_plugin is not None and workflow.local_exec and workflow.is_main_process
    if here and not submits() and (lines := emm_gpus.missing(SETTINGS.execution)):
        stop(lines)


@functools.cache
def arms_variable(stage, key):
    """The names of the arms that a job serves, as an environment variable for its log."""
    return f"{ARMS}={shlex.quote(emm_description.arms_served(INDEX, stage, key, asked_studies(), most=10))}"


def gpu_claim(stage, count=lambda wildcards: 1):
    """Parameter function: words before a job's command, so that it waits for its slots and sees their GPUs alone.

    They also name the arms of the job.  No change of these words makes Snakemake run a job again.
    """

    # Snakemake takes no change of a parameter that depends on `output` for a change of the results.  One that depends on
    # `resources` makes it evaluate all resources of all finished runs.
    def claim(wildcards, output):
        require_gpus()
        try:
            words = shlex.join(emm_gpus.claim(shared_gpus(), SETTINGS.execution, count(wildcards)))
        except SettingsError as error:
            stop(error.lines)
        return f"{arms_variable(stage, wildcards.key)} {words}"

    return claim


def cluster_gpus(count=lambda wildcards: 1):
    """Resource function: the number of GPUs that a job requests from a cluster."""
    return lambda wildcards: 0 if SETTINGS.execution.device == "cpu" else count(wildcards)


def external_gpus(wildcards):
    """The number of GPUs that a run of a command uses."""
    return INDEX.setups["sample", wildcards.key].model.gpus


def minutes(stage):
    """Resource function: the time limit of a stage's job on a cluster."""

    def limit(wildcards, attempt):
        # The estimate loads torch.  Neither local jobs nor the job itself, which asks again, need it.
        known = workflow.is_main_process and workflow.non_local_exec_or_dryrun
        return LIMITS.minutes(stage, wildcards.key, int(wildcards.n), attempt, known=known)

    return limit


@functools.cache
def planned_work():
    """The steps and evaluations that the requested studies still need, by architecture."""
    return emm_compiling.planned(INDEX, asked_studies())


@functools.cache
def can_compile():
    """Whether this machine has a compiler.  The user is told once, before any job starts, if it has none."""
    line = emm_compiling.missing_compiler()
    if line and workflow.is_main_process:
        print(line, file=sys.stderr)
    return line is None


def packaged(stage):
    """Resource function: whether a stage's job may use a compiled package, and build it if it is missing."""

    @functools.cache
    def decision(key):
        # A cluster's job uses packages that exist.  On a GPU, a CUDA graph takes their place.
        elsewhere = GPUS or workflow.remote_exec or submits() or SETTINGS.execution.device == "cuda"
        setup = INDEX.setups[stage, key]
        if SETTINGS.execution.compile != "auto" or elsewhere or setup.training.gpus > 1:
            return SETTINGS.execution.compile
        return "build" if emm_compiling.builds(INDEX, stage, setup, planned_work()) and can_compile() else "auto"

    return lambda wildcards: decision(wildcards.key)
