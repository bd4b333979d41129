"""The ``emm`` command: questions about a configuration and its results.

`main` maps each subcommand to a function of `emmeter.commands` or `emmeter.pipeline` that prints its answer.  These are
imported when they are needed, so that the command answers at once.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emmeter import project
from emmeter.command import command, flush
from emmeter.errors import SettingsError
from emmeter.settings.sections import Scoring
from emmeter.settings.validation import validate

if TYPE_CHECKING:
    from emmeter.measure.audit import Criterion

LARGEST_SIDE = 4096  # pixels
RESULTS = Path("results")


def _summary(args: argparse.Namespace) -> None:
    from emmeter.commands.summary import summary

    summary(args.results, args.studies, name=args.name, overlays=args.configfile, made=args.made)


def _check(args: argparse.Namespace) -> None:
    from emmeter.commands.checking import check

    try:
        check(args.results, args.configfile + args.overlays)
    except SettingsError as error:  # printed here, one line per fault
        print("\n".join(f"error: {line}" for line in error.lines), file=sys.stderr)
        sys.exit(1)


def _plan(args: argparse.Namespace) -> None:
    from emmeter.pipeline.index import index_of
    from emmeter.pipeline.plan import show
    from emmeter.settings.configuration import load, read

    settings = read(load(args.configfile + args.overlays))
    index = index_of(settings, args.results, data_needed=False, looked=False)
    print(show(settings, index, args.cores, args.throughput))


def _list(args: argparse.Namespace) -> None:
    from emmeter.commands.listing import listing

    listing(args.results, args.configfile)


def _status(args: argparse.Namespace) -> None:
    from emmeter.commands.status import status

    status(args.results, args.studies, args.configfile)


def _show(args: argparse.Namespace) -> None:
    from emmeter.commands.showing import show

    show(args.results, args.arm, args.configfile)


def _try(args: argparse.Namespace) -> None:
    from emmeter.commands.trying import try_arm

    try_arm(args.results, args.arm, args.configfile)


def _init(args: argparse.Namespace) -> None:
    from emmeter.commands.starting import init

    init(args.images, args.output)


def _rescore(args: argparse.Namespace) -> None:
    from emmeter.commands.thresholds import THRESHOLDS, rescore_run, rescore_study

    thresholds = args.threshold or THRESHOLDS
    if args.study.endswith(".npz") or Path(args.study).is_file():
        rescore_run(Path(args.study), thresholds, duplicates=args.duplicates)
    else:
        rescore_study(args.results, args.study, thresholds, duplicates=args.duplicates, overlays=args.configfile)


def _clean(args: argparse.Namespace) -> None:
    from emmeter.commands.cleaning import clean

    clean(args.results, args.configfile, yes=args.yes)


def _verify(args: argparse.Namespace) -> None:
    from emmeter.pipeline.verify import verify

    report = verify(args.folder or args.results, args.scores, args.seed)
    if report.mismatches:
        print("\n".join(report.mismatches))
        sys.exit(1)
    print(report.summary())


def _audit(args: argparse.Namespace) -> None:
    from emmeter.commands.audit import run
    from emmeter.data.audited import Options

    options = Options(
        criteria=tuple(args.criterion),
        features=args.features,
        mirrored=args.mirrored,
        resize=args.resize,
        group_pattern=args.group_pattern,
        manifest=args.manifest,
        limit=args.fail_above,
        memory=args.memory,
    )
    places = {"redact": args.redact, "results": args.results, "overlays": args.configfile}
    if status := run(args.generated, args.train, args.held_out, options, args.output, **places):
        flush()
        sys.exit(status)


def _schema(args: argparse.Namespace) -> None:
    from emmeter.files.writing import write_text
    from emmeter.settings.written import json_schema

    write_text(args.output, json.dumps(json_schema(), indent=1) + "\n")


def _threshold(text: str) -> float:
    """Parse a threshold of the criterion, such as 0.25 or 1/3.

    Raises argparse.ArgumentTypeError unless the value is above 0 and below 1.
    """
    try:
        return validate(Scoring, {"threshold": text}).threshold
    except SettingsError:
        message = f"{text!r}: must be a number between 0 and 1, such as 0.25 or 1/3"
        raise argparse.ArgumentTypeError(message) from None


def _criterion(text: str) -> "Criterion":
    """Parse a criterion of an audit, such as ratio or calibrated=0.4."""
    from emmeter.data.audited import parse_criterion

    try:
        return parse_criterion(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _memory(text: str) -> int:
    """Parse a size of memory, such as 4GB."""
    from emmeter.data.audited import parse_memory

    try:
        return parse_memory(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _side(text: str) -> int:
    """Parse the side of an image in pixels."""
    if not text.isdecimal() or not 1 <= int(text) <= LARGEST_SIDE:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number of pixels from 1 to {LARGEST_SIDE}")
    return int(text)


def _limit(text: str) -> float:
    """Parse the highest rate of copies, at least 0 and below 1."""
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a share from 0 to below 1, such as 0.01")
    return limit


class _Version(argparse.Action):
    """Print version and commit, and end."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        from emmeter.files.provenance import commit

        try:
            number = version("emmeter")
        except PackageNotFoundError:  # a checkout that is not installed
            number = "(not installed)"
        print(f"emmeter {number}" + (f", commit {known}" if (known := commit()) else ""))
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    """Build the parser.  The option `run` of a parsed command line calls the chosen function with its arguments."""
    parser = argparse.ArgumentParser(prog="emm", description="Questions about a configuration and its results.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print version and commit")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of results (default: results)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, run: Callable[[argparse.Namespace], None], text: str, *, configured: bool = True
    ) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        subparser.set_defaults(run=run)
        if configured:
            subparser.add_argument(
                "--configfile", type=Path, nargs="+", default=[], metavar="FILE",
                help="overlays of the configuration, as for snakemake",
            )  # fmt: skip
        return subparser

    options = add("check", _check, "check the configuration, and list its studies and arms")
    options.add_argument("overlays", type=Path, nargs="*", metavar="FILE", help="the same as --configfile FILE")
    options = add("plan", _plan, "estimate time, runs, images, disk space and operations of what is still to be done")
    options.add_argument("overlays", type=Path, nargs="*", metavar="FILE", help="the same as --configfile FILE")
    options.add_argument("--cores", type=int, help="number of cores to plan for (default: all of this machine)")
    options.add_argument("--throughput", type=float, help="GFLOP/s of one job, instead of a calibration of 10 seconds")
    add("list", _list, "list the studies with title, source, and runs done of about how many")
    options = add("status", _status, "show runs done of about how many, time left, running and failed jobs")
    options.add_argument("studies", nargs="*", metavar="STUDY", help="studies (default: those that `run` selects)")
    options = add("show", _show, "show the arms of a study, or settings, runs and folders of an arm")
    options.add_argument("arm", metavar="STUDY[/ARM]")
    options = add("try", _try, "run the command of an arm on ten images, and say whether it keeps the contract")
    options.add_argument("arm", metavar="STUDY/ARM")
    options = add("summary", _summary, "print the tables of finished studies again")
    options.add_argument("studies", nargs="*", metavar="STUDY", help="studies that have been made (default: all)")
    options.add_argument("--name", help="name of the experiment (default: that of the configuration)")
    options.add_argument("--made", nargs="*", metavar="PAGE", help="pages that were just made")
    options = add("rescore", _rescore, "compute EMM of a study, or ratios of one run, under other thresholds")
    options.add_argument("study", metavar="STUDY[/ARM]|FILE", help="finished study or arm, or a run's neighbours.npz")
    options.add_argument("--threshold", type=_threshold, nargs="+", metavar="T", help="default: 0.2 0.25 1/3 0.4 0.5")
    options.add_argument(
        "--duplicates", action="store_true", help="the paper's rule: a duplicate is a second neighbour"
    )
    options = add("init", _init, "write an overlay for your own images", configured=False)
    options.add_argument("images", type=Path, help="folder of images, or .npz file")
    options.add_argument("--output", "-o", type=Path, metavar="FILE", help="default: NAME.yaml, after the images")
    options = add("clean", _clean, "delete runs that no configuration here uses; asks first")
    options.add_argument("--yes", action="store_true", help="do not ask")
    options = add("verify", _verify, "recompute what can be recomputed, and name what differs", configured=False)
    options.add_argument("folder", type=Path, nargs="?", help="results to verify (default: those of --results)")
    options.add_argument("--scores", type=int, default=10, help="number of scores to compute again from their samples")
    options.add_argument("--seed", type=int, default=0, help="seed that chooses these scores")
    options = add("audit", _audit, "say whether generated images, of any model, are copies of its training images")
    options.add_argument("generated", metavar="GENERATED", help="folder, .npz, .npy, .zip or manifest; or STUDY/ARM")
    options.add_argument("--train", type=Path, metavar="TRAIN", help="the images that the model was trained on")
    options.add_argument("--held-out", type=Path, metavar="IMAGES", help="images that the model was not trained on")
    options.add_argument(
        "--criterion", type=_criterion, nargs="+", default=[_criterion("ratio")], metavar="C[=T]",
        help="ratio, calibrated or cosine, each with its threshold (default: ratio=1/3)",
    )  # fmt: skip
    options.add_argument("--features", type=Path, metavar="FILE", help="TorchScript network, for the criterion cosine")
    options.add_argument("--mirrored", action="store_true", help="mirror images of training images count, too")
    options.add_argument("--resize", type=_side, metavar="N", help="resample the middle square to N x N (Lanczos)")
    groups = options.add_mutually_exclusive_group()
    groups.add_argument("--group-pattern", metavar="REGEX", help="group of a training image, searched in its name")
    groups.add_argument("--manifest", type=Path, metavar="FILE", help="CSV or JSONL: path, group, label, prompt, seed")
    options.add_argument("--fail-above", type=_limit, default=0.01, metavar="SHARE", help="limit (default: 0.01)")
    options.add_argument("--memory", type=_memory, default=4 * 10**9, metavar="SIZE", help="default: 4GB")
    options.add_argument("--redact", action="store_true", help="hashes instead of names, and no pictures")
    options.add_argument("--output", "-o", type=Path, default=Path("audit"), metavar="FOLDER", help="default: audit")
    options.set_defaults(failure=2)
    options = add("schema", _schema, "write the JSON schema of the configuration", configured=False)
    options.add_argument("output", type=Path, metavar="FILE")
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
        command(run, getattr(args, "failure", 1))
    except BrokenPipeError:  # the reader has closed standard output, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the output that is still buffered
        sys.exit(128 + signal.SIGPIPE)


if __name__ == "__main__":
    sys.exit(main())
