"""The report stage: ``python -m emm.report`` has Snakemake make its own report of the finished results."""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from emm.files import replacing
from emm.stage import StageError, command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="the configuration in force, as YAML")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("targets", nargs="+")
    args = parser.parse_args()
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as config, replacing(args.output) as page:
        config.write(args.config)
        config.flush()
        snakemake = [sys.executable, "-m", "snakemake", "--nolock", "--cores", "1", "--configfile", config.name]
        done = subprocess.run([*snakemake, "--report", str(page), "--", *args.targets], capture_output=True, text=True)
        if done.returncode:
            raise StageError(f"snakemake --report failed: {done.stderr.strip().splitlines()[-1:]}")


if __name__ == "__main__":
    command(main)
