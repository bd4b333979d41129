"""The ``emm`` command: small questions about a configuration and its results."""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from emmeter import project
from emmeter.command import command, flush
from emmeter.errors import SettingsError, StageError
from emmeter.files.writing import write_text
from emmeter.settings.sections import Scoring
from emmeter.settings.validation import validate


def summary(args: argparse.Namespace) -> None:
    """Print EMM of every arm of the named studies (default: of all), what the findings are, and where figures are."""
    from emmeter.files.tables import EMM_COLUMNS, FINDING_COLUMNS, read
    from emmeter.presentation import findings
    from emmeter.presentation.tables import lines

    folder = args.results / "studies"
    names = args.studies or sorted(path.parent.name for path in folder.glob("*/emm.csv"))
    if not names:
        raise StageError(f"{args.results}: holds no table yet; run snakemake first")
    tables = [folder / name / "emm.csv" for name in names]
    arms = read(tables, EMM_COLUMNS)
    found = read([table.with_name("findings.csv") for table in tables], FINDING_COLUMNS)
    try:
        texts = [lines(arms), *([findings.lines(found)] if len(found) else [])]
    except ValueError as error:
        raise StageError(f"{folder}: a table is damaged ({error}); delete them, and run snakemake again") from None
    print("\n" + "\n\n".join(texts) + "\n")
    print(f"figures  {folder}/{names[0] if len(names) == 1 else '*'}/*.svg")
    if args.report:
        print(f"report   {args.results / 'report.html'}")


def check(args: argparse.Namespace) -> None:
    """Validate the configuration, with overlays laid over it in order, and list its studies and their arms.

    Of your own images, every head is read: what they hold is printed, and every faulty one is named.
    """
    from emmeter.machine import gpus
    from emmeter.pipeline.index import index_of
    from emmeter.settings.configuration import load, read

    try:
        settings = read(load(args.overlays))
        index = index_of(settings, args.results, asked=())
        if faults := [*index.faults(settings.selected), *gpus.missing(settings.execution, sys.executable)]:
            raise SettingsError(*faults)
        gpus.devices(settings.execution)
    except SettingsError as error:  # there may be many
        print("\n".join(f"error: {line}" for line in error.lines), file=sys.stderr)
        sys.exit(1)
    reasons = {study.name: index.faults([study.name]) for study in settings.studies}
    print("".join(f"{line}\n" for line in index.portraits(reasons)), end="")
    for study in settings.studies:
        print(f"{study.name}: {', '.join(arm.name for arm in study.arms)}")
        for line in reasons[study.name]:
            print(f"  cannot run here: {line}")
    for line in index.notices(settings.selected):
        print(f"note: {line}")


def plan(args: argparse.Namespace) -> None:
    """Print what the selected studies will cost: runs, images, operations, time, disk."""
    from emmeter.pipeline.index import index_of
    from emmeter.pipeline.plan import show
    from emmeter.settings.configuration import load, read

    settings = read(load(args.overlays))
    index = index_of(settings, args.results, data_needed=False, looked=False)
    print(show(settings, index, args.cores, args.throughput))


def schema(args: argparse.Namespace) -> None:
    """Write the JSON schema of the configuration."""
    from emmeter.settings.written import json_schema

    write_text(args.output, json.dumps(json_schema(), indent=1) + "\n")


def rescore(args: argparse.Namespace) -> None:
    """Print the memorization ratio of a scored run under other thresholds, from its stored distances."""
    from emmeter.files.scores import read_neighbours
    from emmeter.measure.criterion import memorized

    snapshots = read_neighbours(args.neighbours)
    print("threshold  " + "  ".join(f"snapshot {i}" for i in range(len(snapshots))))
    for value in args.threshold:
        ratios = [memorized(found, value, not args.duplicates).mean() for found in snapshots]
        print(f"{value:<9.4g}  " + "  ".join(f"{ratio:<{len('snapshot 0')}.4f}" for ratio in ratios))


def threshold(text: str) -> float:
    """A threshold of the criterion as text, a fraction too.  Raises ArgumentTypeError unless it is in ]0, 1[."""
    try:
        return validate(Scoring, {"threshold": text}).threshold
    except SettingsError:
        message = f"{text!r}: must be a number between 0 and 1, such as 0.25 or 1/3"
        raise argparse.ArgumentTypeError(message) from None


def verify(args: argparse.Namespace) -> None:
    """Check results against their settings, records and checksums, and compute a sample of scores again."""
    from emmeter.pipeline.verify import verify as verified

    found = verified(args.folder or args.results, args.scores, args.seed)
    if found.mismatches:
        print("\n".join(found.mismatches))
        sys.exit(1)
    print(found.summary())


def answer(args: argparse.Namespace) -> None:
    """Run the command that was chosen, and see its output off."""
    args.run(args)
    flush()


def main() -> None:
    """The ``emm`` command: it runs the package of the project that it is called in."""
    if (wanted := project.others()) is not None:
        project.become(wanted, "emmeter.cli")  # returns in vain attempts alone, which `command` then tells
    parser = argparse.ArgumentParser(prog="emm", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"))
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("summary", help=summary.__doc__)
    one.add_argument("studies", nargs="*", help="names of studies that have been made (default: all)")
    one.add_argument("--report", action="store_true", help="say where the report is, which holds these studies")
    one.set_defaults(run=summary)
    one = commands.add_parser("check", help=check.__doc__)
    one.add_argument("overlays", type=Path, nargs="*")
    one.set_defaults(run=check)
    one = commands.add_parser("plan", help=plan.__doc__)
    one.add_argument("overlays", type=Path, nargs="*")
    one.add_argument("--cores", type=int, help="plan for so many cores (default: this machine's)")
    one.add_argument("--throughput", type=float, help="GFLOP/s of one job, instead of a calibration of 10 seconds")
    one.set_defaults(run=plan)
    one = commands.add_parser("schema", help=schema.__doc__)
    one.add_argument("output", type=Path)
    one.set_defaults(run=schema)
    one = commands.add_parser("rescore", help=rescore.__doc__)
    one.add_argument("neighbours", type=Path)
    one.add_argument("--threshold", type=threshold, nargs="+", default=[0.2, 0.25, 1 / 3, 0.4, 0.5])
    one.add_argument("--duplicates", action="store_true", help="the paper's rule: a duplicate is a second neighbour")
    one.set_defaults(run=rescore)
    one = commands.add_parser("verify", help=verify.__doc__)
    one.add_argument("folder", type=Path, nargs="?", help="results to verify (default: those of --results)")
    one.add_argument("--scores", type=int, default=10, help="scores to compute again from their samples")
    one.add_argument("--seed", type=int, default=0, help="which scores")
    one.set_defaults(run=verify)
    args = parser.parse_args()
    try:
        command(lambda: answer(args))
    except BrokenPipeError:  # whoever reads has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        sys.exit(128 + signal.SIGPIPE)


if __name__ == "__main__":
    sys.exit(main())
