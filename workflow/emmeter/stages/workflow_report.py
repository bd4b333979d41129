"""The workflow_report stage lets Snakemake make its own report of the finished results."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emmeter import project
from emmeter.command import command
from emmeter.errors import StageError
from emmeter.files.writing import replacing

# The profiles of the user and of the project hold options for runs, which do not fit a report.
OPTIONS = ("--nolock", "--cores", "1", "--profile", "none", "--workflow-profile", "none")

# As a module, the workflow reads no configuration file from the working directory.
MODULE = """
module emm:
    snakefile: {snakefile!r}
    config: config
    replace_prefix: {moved!r}

use rule * from emm
"""


def workflow_report(
    config: Mapping[str, Any], targets: Sequence[str], *, output: Path, results: Path | None = None
) -> None:
    """Write Snakemake's report.

    Args:
        config: the configuration in force, with all overlays.
        targets: the files whose jobs, figures and tables the report shows.
        output: the HTML file to write.
        results: the folder of results, if this workflow is a module of another.
    Raises:
        StageError: Snakemake has failed; the error holds its last line.
    """
    with tempfile.TemporaryDirectory() as folder, replacing(output) as page:
        file, snakefile = Path(folder, "config.json"), project.snakefile()
        file.write_text(json.dumps(config), encoding="utf-8")
        if results is not None:
            text = MODULE.format(snakefile=str(snakefile), moved={"results/": f"{results}/"})
            snakefile = Path(folder, "Snakefile")
            snakefile.write_text(text, encoding="utf-8")
        snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), *OPTIONS]
        # A relative path, because Snakemake expands variables in an absolute one.
        options = ["--configfile", str(file), "--report", os.path.relpath(page), "--", *targets]
        process = subprocess.run([*snakemake, *options], capture_output=True, encoding="utf-8", errors="replace")
        if process.returncode:
            raise StageError(f"snakemake --report failed: {process.stderr.strip().splitlines()[-1:]}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--config", required=True, help="the configuration in force, as JSON")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="the folder of results, if this workflow is a module of another")
    parser.add_argument("targets", nargs="+")
    args = parser.parse_args(argv)
    workflow_report(json.loads(args.config), args.targets, output=args.output, results=args.results)


if __name__ == "__main__":
    command(main)
