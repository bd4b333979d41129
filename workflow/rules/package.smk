# The workflow's own package and files, whatever else is installed, set or in the working directory.
import gc
import logging
import os
import sys
import warnings
from pathlib import Path

RULES_FOLDER = Path(str(workflow.current_basedir))
if not RULES_FOLDER.is_dir():
    print(
        f"error: {RULES_FOLDER}: this workflow must be a folder on this machine; clone it, and name its Snakefile",
        file=sys.stderr,
    )
    sys.exit(1)
ROOT = RULES_FOLDER.parents[1]
PACKAGE = str(ROOT / "workflow")
sys.path.insert(0, PACKAGE)
import emmeter

if Path(emmeter.__file__ or "").resolve().parent != Path(PACKAGE, "emmeter").resolve():
    print(f"error: {emmeter.__file__}: is not the workflow's own package, {PACKAGE}/emmeter", file=sys.stderr)
    sys.exit(1)

from emmeter import project as emm_project

# Neither this process nor its jobs may turn warnings into errors; and jobs must end when they are done.
for variable in ("PYTHONWARNINGS", "PYTHONINSPECT"):
    if os.environ.pop(variable, None):
        warnings.simplefilter("ignore")
# The objects of a large project's DAG are all in use.  Looking for garbage among them after every 700 new objects, as
# Python does by default, takes a tenth of Snakemake's time.
gc.set_threshold(50_000)
# Snakemake's log file has the encoding of the locale.  Without this, a character that it lacks causes a traceback.
logging.raiseExceptions = False
variables = emm_project.child_environment(ROOT) | {emm_project.VARIABLE: str(ROOT)}
# Conda environments (--software-deployment-method conda) hold the packages that emmeter needs, not emmeter itself, and
# Snakemake removes PYTHONPATH from the environment of their jobs.
os.environ.update(variables | {"EMM_PYTHONPATH": variables["PYTHONPATH"]})
shell.prefix('set -euo pipefail; export PYTHONPATH="$EMM_PYTHONPATH"; ')

# As a module the workflow uses its own files alone: those in the working directory belong to the workflow around it.
IS_MODULE = not workflow.modifier.is_main_snakefile()
FOLDER = ROOT if IS_MODULE else Path()


def project_file(path):
    """A file of the configuration: that of the working directory, or else the project's own."""
    return str(emm_project.file(Path(path), FOLDER))
