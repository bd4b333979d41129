"""Which project this code belongs to, and where that project keeps its files.

Several checkouts on one machine have a package of this name each, and so has another project on PyPI.  A workflow runs
its own; `fault` tells who would run another one's.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the package as it lies in its project: ROOT/workflow/emmeter
VARIABLE = "EMM_PROJECT"  # environment variable: the root of the workflow that has started this process
PACKAGE = Path("workflow") / "emmeter" / "__init__.py"


def file(path: Path, folder: Path = Path()) -> Path:
    """A file of the project (a relative path): that of `folder`, the one worked in, and where it has none our own."""
    own = ROOT / path
    return own if not (folder / path).is_file() and own.is_file() else folder / path


def snakefile() -> Path:
    """The Snakefile of the workflow that has started this process, else that of our own project."""
    return Path(os.environ.get(VARIABLE) or ROOT) / "Snakefile"


def others(folder: Path = Path()) -> Path | None:
    """The root of the project whose package should run here in the place of this one; None: this one should.

    That of the workflow that has started this process, else the one in `folder`.
    """
    told = os.environ.get(VARIABLE)
    if not told and not ((folder / "Snakefile").is_file() and (folder / PACKAGE).is_file()):
        return None
    wanted = Path(told or folder).absolute()
    return None if (wanted / PACKAGE).resolve() == Path(__file__).resolve().with_name(PACKAGE.name) else wanted


def fault(wanted: Path) -> str:
    """One line: this package is not the one that is wanted."""
    return f"{Path(__file__).parent}: is the package of another project; this one's is {wanted / PACKAGE.parent}"


def child_environment(root: Path = ROOT) -> dict[str, str]:
    """Variables of a Python process that is to find the package of the project in `root` before all others."""
    own = str(root / PACKAGE.parent.parent)
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", own)]
    # A module of that name in the folder worked in would come first, if Python looked there.
    return {"PYTHONPATH": os.pathsep.join([own, *others]), "PYTHONSAFEPATH": "1"}


def become(wanted: Path, module: str) -> None:
    """Replace this process by one that runs a module of the project that is wanted, with the same arguments.

    Returns where the variable asks for that project already: then its package was asked for, and did not come.
    """
    if os.environ.get(VARIABLE):
        return
    environment = os.environ | child_environment(wanted) | {VARIABLE: str(wanted)}
    os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], environment)
