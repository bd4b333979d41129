"""The project that this code belongs to, and where that project keeps its files.

Several checkouts on one machine each have a package of this name, and so has another project on PyPI.  A workflow must
run the package of its own project.  `others` reports when another package should run, and `fault` says so in one line.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the package is stored in ROOT/workflow/emmeter
VARIABLE = "EMM_PROJECT"  # environment variable: the root of the workflow that has started this process
PACKAGE = Path("workflow") / "emmeter" / "__init__.py"


def file(path: Path, folder: Path = Path()) -> Path:
    """Find a file of the project: in `folder`, and if it is missing there, in our own project.

    Args:
        path: relative path.
        folder: root of the project that is worked in.
    Returns:
        The path in `folder` if the file exists in neither.
    """
    own = ROOT / path
    return own if not (folder / path).is_file() and own.is_file() else folder / path


def snakefile() -> Path:
    """Path of the Snakefile of the workflow that has started this process, else of our own project."""
    return Path(os.environ.get(VARIABLE) or ROOT) / "Snakefile"


def others(folder: Path = Path()) -> Path | None:
    """Root of another project whose package should run here instead of this one; None if this one should run.

    That is the project of the workflow that has started this process, else the project in `folder`.
    """
    root = os.environ.get(VARIABLE)
    if not root and not ((folder / "Snakefile").is_file() and (folder / PACKAGE).is_file()):
        return None
    wanted = Path(root or folder).absolute()
    return None if (wanted / PACKAGE).resolve() == Path(__file__).resolve().with_name(PACKAGE.name) else wanted


def fault(wanted: Path) -> str:
    """Report in one line that this package is not the one of the project in `wanted`."""
    return f"{Path(__file__).parent}: is the package of another project; this one's is {wanted / PACKAGE.parent}"


def child_environment(root: Path = ROOT) -> dict[str, str]:
    """Environment variables for a Python process that must find the package of the project in `root` first."""
    own = str(root / PACKAGE.parent.parent)
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", own)]
    # Safe path: otherwise Python would look in the working folder first, which may hold a module of that name.
    return {"PYTHONPATH": os.pathsep.join([own, *others]), "PYTHONSAFEPATH": "1"}


def become(wanted: Path, module: str, arguments: Sequence[str]) -> None:
    """Replace this process by one that runs a module of the project in `wanted`, with `arguments`.

    Returns only if VARIABLE is set: that project's package was then asked for already, and another one came.
    """
    if os.environ.get(VARIABLE):
        return
    environment = os.environ | child_environment(wanted) | {VARIABLE: str(wanted)}
    os.execve(sys.executable, [sys.executable, "-m", module, *arguments], environment)
