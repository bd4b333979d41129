"""The ``emm`` command: small questions about a configuration and its results.

Each subcommand is a function that prints its answer.  `main` maps the command line to these functions.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from emmeter import project
from emmeter.command import command, flush
from emmeter.errors import SettingsError, StageError
from emmeter.files.writing import write_text
from emmeter.settings.sections import Scoring
from emmeter.settings.validation import validate

RESULTS = Path("results")
THRESHOLDS = (0.2, 0.25, 1 / 3, 0.4, 0.5)


def summary(
    results: Path = RESULTS,
    studies: Sequence[str] = (),
    *,
    name: str | None = None,
    overlays: Sequence[Path] = (),
    report: bool = False,
) -> None:
    """Print the EMM of each arm of the named studies (default: all), their findings, and where the figures are.

    Without a name, the experiment is that of the present configuration, and rows that it would not make are marked.
    """
    from emmeter.files.tables import EMM_COLUMNS, FINDING_COLUMNS, read
    from emmeter.pipeline import experiment
    from emmeter.presentation import findings
    from emmeter.presentation.tables import lines

    made: dict[tuple[str, str], str] | None = None
    folder = results / (name or "")
    if name is None:
        folder, made = _present(results, overlays)
    names = list(studies) or sorted(path.parent.name for path in folder.glob("*/emm.csv"))
    others = experiment.others(results, folder)
    hint = f"other experiments, for `emm summary --name`: {', '.join(others)}"
    if not names:
        raise StageError(f"{folder}: holds no table yet; run snakemake first" + (f" ({hint})" if others else ""))
    tables = [folder / study / "emm.csv" for study in names]
    arms = read(tables, EMM_COLUMNS)
    claims = read([table.with_name("findings.csv") for table in tables], FINDING_COLUMNS)
    try:
        texts = [lines(arms, made), *([findings.lines(claims)] if len(claims) else [])]
    except ValueError as error:
        raise StageError(f"{folder}: a table is damaged ({error}); delete them, and run snakemake again") from None
    print("\n" + "\n\n".join(texts) + "\n")
    print(f"figures  {folder}/{names[0] if len(names) == 1 else '*'}/*.svg")
    if report:
        print(f"report   {folder / 'report.html'}")
    if name is None and others:
        print(hint)


def _present(results: Path, overlays: Sequence[Path]) -> tuple[Path, dict[tuple[str, str], str]]:
    """The experiment of the present configuration: its folder, and the key of each arm's search by study and arm."""
    from emmeter.pipeline.index import index_of
    from emmeter.settings.configuration import load, read
    from emmeter.settings.keys import key

    settings = read(load(overlays), asked=())
    index = index_of(settings, results, data_needed=False, asked=(), looked=False)
    arms = {
        (study.name, arm.name): key("emm", arm.setup)
        for study in index.settings.studies
        if study.name not in index.impossible
        for arm in study.arms
    }
    return index.experiment, arms


def check(results: Path = RESULTS, overlays: Sequence[Path] = ()) -> None:
    """Validate the configuration, with the overlays in order, and list its studies and their arms.

    For your own images, the command reads the head of every file, prints what they hold and names every faulty file.
    """
    from emmeter.machine import gpus
    from emmeter.pipeline.index import index_of
    from emmeter.settings.configuration import load, read

    try:
        settings = read(load(overlays))
        index = index_of(settings, results, asked=())
        if faults := [*index.faults(settings.selected), *gpus.missing(settings.execution, sys.executable)]:
            raise SettingsError(*faults)
        gpus.devices(settings.execution)
    except SettingsError as error:  # printed here, one line per fault
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


def plan(
    results: Path = RESULTS,
    overlays: Sequence[Path] = (),
    *,
    cores: int | None = None,
    throughput: float | None = None,
) -> None:
    """Print the cost of the selected studies: runs, images, operations, time and disk."""
    from emmeter.pipeline.index import index_of
    from emmeter.pipeline.plan import show
    from emmeter.settings.configuration import load, read

    settings = read(load(overlays))
    index = index_of(settings, results, data_needed=False, looked=False)
    print(show(settings, index, cores, throughput))


def schema(output: Path) -> None:
    """Write the JSON schema of the configuration."""
    from emmeter.settings.written import json_schema

    write_text(output, json.dumps(json_schema(), indent=1) + "\n")


def rescore(neighbours: Path, thresholds: Sequence[float] = THRESHOLDS, *, duplicates: bool = False) -> None:
    """Print the memorization ratio of a scored run under other thresholds, from its stored distances."""
    from emmeter.files.scores import read_neighbours
    from emmeter.measure.criterion import memorized

    snapshots = read_neighbours(neighbours)
    print("threshold  " + "  ".join(f"snapshot {i}" for i in range(len(snapshots))))
    for value in thresholds:
        ratios = [memorized(snapshot, value, not duplicates).mean() for snapshot in snapshots]
        print(f"{value:<9.4g}  " + "  ".join(f"{ratio:<{len('snapshot 0')}.4f}" for ratio in ratios))


def verify(results: Path = RESULTS, *, scores: int = 10, seed: int = 0) -> None:
    """Check results against their settings, records and checksums, and compute a sample of the scores again."""
    from emmeter.pipeline.verify import verify as verify_folder

    report = verify_folder(results, scores, seed)
    if report.mismatches:
        print("\n".join(report.mismatches))
        sys.exit(1)
    print(report.summary())


def _threshold(text: str) -> float:
    """Parse a threshold of the criterion, such as 0.25 or 1/3.

    Raises argparse.ArgumentTypeError unless the value is above 0 and below 1.
    """
    try:
        return validate(Scoring, {"threshold": text}).threshold
    except SettingsError:
        message = f"{text!r}: must be a number between 0 and 1, such as 0.25 or 1/3"
        raise argparse.ArgumentTypeError(message) from None


def _parser() -> argparse.ArgumentParser:
    """Build the parser.  The option `run` of a parsed command line calls the chosen function with its arguments."""
    parser = argparse.ArgumentParser(prog="emm", description="Small questions about a configuration and its results.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    commands = parser.add_subparsers(required=True)

    def add(function: Callable[..., None], run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        subparser = commands.add_parser(function.__name__, help=function.__doc__)
        subparser.set_defaults(run=run)
        return subparser

    options = add(
        summary,
        lambda args: summary(args.results, args.studies, name=args.name, overlays=args.configfile, report=args.report),
    )
    options.add_argument("studies", nargs="*", help="names of studies that have been made (default: all)")
    options.add_argument("--name", help="name of the experiment (default: that of the configuration)")
    options.add_argument("--configfile", type=Path, nargs="+", default=[], help="overlays of the configuration")
    options.add_argument("--report", action="store_true", help="also print where the report of these studies is")
    options = add(check, lambda args: check(args.results, args.overlays))
    options.add_argument("overlays", type=Path, nargs="*")
    options = add(plan, lambda args: plan(args.results, args.overlays, cores=args.cores, throughput=args.throughput))
    options.add_argument("overlays", type=Path, nargs="*")
    options.add_argument("--cores", type=int, help="number of cores to plan for (default: all of this machine)")
    options.add_argument("--throughput", type=float, help="GFLOP/s of one job, instead of a calibration of 10 seconds")
    options = add(schema, lambda args: schema(args.output))
    options.add_argument("output", type=Path)
    options = add(rescore, lambda args: rescore(args.neighbours, args.threshold, duplicates=args.duplicates))
    options.add_argument("neighbours", type=Path)
    options.add_argument("--threshold", type=_threshold, nargs="+", default=THRESHOLDS)
    options.add_argument(
        "--duplicates", action="store_true", help="the paper's rule: a duplicate is a second neighbour"
    )
    options = add(verify, lambda args: verify(args.folder or args.results, scores=args.scores, seed=args.seed))
    options.add_argument("folder", type=Path, nargs="?", help="results to verify (default: those of --results)")
    options.add_argument("--scores", type=int, default=10, help="number of scores to compute again from their samples")
    options.add_argument("--seed", type=int, default=0, help="seed that chooses these scores")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the ``emm`` command, with the package of the project in whose folder it is called.

    Raises SystemExit: status 1 after an expected failure, 2 for a wrong command line, 141 if the reader of standard
    output has closed it.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if (wanted := project.others()) is not None:
        project.become(wanted, "emmeter.cli", arguments)  # returns only in vain; then `command` reports why
    args = _parser().parse_args(arguments)

    def run() -> None:
        args.run(args)
        flush()  # here, so that an output that cannot be written is reported too

    try:
        command(run)
    except BrokenPipeError:  # the reader has closed standard output, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the output that is still buffered
        sys.exit(128 + signal.SIGPIPE)


if __name__ == "__main__":
    sys.exit(main())
