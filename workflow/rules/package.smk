# The workflow's own package and files, whatever its user has installed, set or lying about.  Nothing here computes.
import logging
import os
import sys
import warnings
from pathlib import Path

ROOT = Path(workflow.basedir).absolute()
PACKAGE = str(ROOT / "workflow")
sys.path.insert(0, PACKAGE)
import emmeter

if Path(emmeter.__file__ or "").resolve().parent != Path(PACKAGE, "emmeter").resolve():
    print(f"config: {emmeter.__file__}: is not the workflow's own package, {PACKAGE}/emmeter", file=sys.stderr)
    sys.exit(1)

from emmeter import project as emm_project

# Jobs are to take no warning for an error, nor to stay when they are done, and nor is this process.
for variable in ("PYTHONWARNINGS", "PYTHONINSPECT"):
    if os.environ.pop(variable, None):
        warnings.simplefilter("ignore")
# Snakemake's own log file has the encoding of the locale.  What it cannot hold is no reason for a traceback.
logging.raiseExceptions = False
variables = emm_project.child_environment(ROOT) | {emm_project.VARIABLE: str(ROOT)}
# Conda environments (--software-deployment-method conda) hold the packages that emmeter needs, not emmeter itself, and
# Snakemake takes PYTHONPATH away from their jobs.
os.environ.update(variables | {"EMM_PYTHONPATH": variables["PYTHONPATH"]})
shell.prefix('set -euo pipefail; export PYTHONPATH="$EMM_PYTHONPATH"; ')


def project_file(path):
    """A file of the configuration: of the folder that results go to, and where it has none the project's own."""
    return str(emm_project.file(Path(path)))
