"""The report stage: ``python -m emmeter.stages.report`` has Snakemake make its own report of the finished results."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from emmeter import project
from emmeter.command import command
from emmeter.errors import StageError
from emmeter.files.writing import replacing

# Of the Snakemake that makes the report: nobody's profile decides about it.
OPTIONS = ("--nolock", "--cores", "1", "--profile", "none", "--workflow-profile", "none")

# As a module, the workflow reads no configuration file from the working directory.
MODULE = """
module emm:
    snakefile: {snakefile!r}
    config: config
    replace_prefix: {moved!r}

use rule * from emm
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--config", required=True, help="the configuration in force, as JSON")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="the folder of results, if this workflow is a module of another")
    parser.add_argument("targets", nargs="+")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, replacing(args.output) as page:
        config, snakefile = Path(folder, "config.json"), project.snakefile()
        config.write_text(args.config, encoding="utf-8")
        if args.results is not None:
            text = MODULE.format(snakefile=str(snakefile), moved={"results/": f"{args.results}/"})
            snakefile = Path(folder, "Snakefile")
            snakefile.write_text(text, encoding="utf-8")
        snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), *OPTIONS]
        # Relative: Snakemake would replace variables in its path.
        command_line = [*snakemake, "--configfile", str(config), "--report", os.path.relpath(page), "--", *args.targets]
        done = subprocess.run(command_line, capture_output=True, encoding="utf-8", errors="replace")
        if done.returncode:
            raise StageError(f"snakemake --report failed: {done.stderr.strip().splitlines()[-1:]}")


if __name__ == "__main__":
    command(main)
