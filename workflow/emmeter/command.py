"""Parts that all command lines share: options, one-line errors, the end of a process.

A stage module has a function that does its work, and `main(argv)`, which parses a command line and calls that function.
`command` and `program` run such a `main` as a program.
"""

import argparse
import codecs
import contextlib
import io
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from emmeter import project
from emmeter.errors import DataError, SettingsError, StageError, lines
from emmeter.settings.sections import Setup
from emmeter.settings.validation import lookup, read_setup

ARMS = "EMM_ARMS"  # environment variable: names of the arms that a job serves, for its log
PLAIN = {"≥": ">=", "≤": "<=", "×": "x", "±": "+-", "−": "-", "–": "-", "—": "-", "…": "...", "‘": "'", "’": "'"}


def stage_parser(description: str | None, *options: str, run: bool = True) -> argparse.ArgumentParser:
    """Build a parser with the options that all stages of a run share, and a required path for each of `options`.

    Args:
        description: the text that ``--help`` shows.
        options: names of further options, such as ``--output``.
        run: whether the stage works on one run, so that N and the replicate are options too.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--settings", required=True, help="settings of this stage as JSON")
    parser.add_argument("--key", default="", help="settings key, for the record (default: computed from the settings)")
    if run:
        parser.add_argument("--n", type=int, required=True, help="number of training images")
        parser.add_argument(
            "--replicate", type=int, required=True, help="number of the subset and training seed, from 0"
        )
    for option in options:
        parser.add_argument(option, type=Path, required=True)
    return parser


def positive(text: str) -> int:
    """Parse an option that counts something.  Raises argparse.ArgumentTypeError for anything but 1, 2, 3, ..."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text!r}")
    return int(text)


def execution_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of stages that compute with torch.  They change results by rounding at most."""
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=positive, default=1)


def read_settings(text: str) -> Setup:
    """Read the settings of a stage from JSON.

    Raises SettingsError if the text is not JSON, if a setting is wrong, or if a value is missing that depends on the
    data (`network.attention`, `diffusion.sigma_data`, `search.n_max`).
    """
    try:
        setup = read_setup(json.loads(text))
    except json.JSONDecodeError as error:
        raise SettingsError(f"--settings: is not JSON ({error})") from None
    data_dependent = ("network.attention", "diffusion.sigma_data", "search.n_max")
    if undecided := [name for name in data_dependent if lookup(setup, name) is None]:
        raise SettingsError(*(f"{name} = None: a stage needs the value" for name in undecided))
    return setup


def plain(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks; the error handler `emm.plain` of encodings.

    Signs in `PLAIN` become ASCII, other characters become escapes.  A file name may hold bytes that are not text
    (surrogates in Python): these become escapes in every encoding.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error

    def replaced(character: str) -> str:
        byte = ord(character) - 0xDC00
        escape = f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else ascii(character)[1:-1]
        return PLAIN.get(character, escape)

    return "".join(map(replaced, error.object[error.start : error.end])), error.end


codecs.register_error("emm.plain", plain)


def legible(stream: TextIO | None) -> None:
    """Let a stream write characters that its encoding lacks, as `plain` replaces them.

    A closed stream, or one that has been replaced by another object, is left unchanged.
    """
    if isinstance(stream, io.TextIOWrapper) and stream.errors != "emm.plain":
        with contextlib.suppress(OSError, ValueError):
            stream.reconfigure(errors="emm.plain")


def unnameable(error: UnicodeEncodeError) -> str:
    """Format the error of a file name that the locale's encoding cannot express, as one line."""
    return f"{error.object[:200]!r}: the encoding {error.encoding} of this locale cannot name it; set PYTHONUTF8=1"


def command(main: Callable[[], None], failure: int = 1) -> None:
    """Run a function as a program.  Report an expected failure on standard error and exit.

    The report is one line; for faulty data files, one line per file.  Unexpected errors keep their traceback.

    Args:
        main: the function.
        failure: exit status after a failure, expected or not.
    Raises:
        BrokenPipeError: the reader of standard output has closed it.
        SystemExit: `main` exited or failed.
    """
    legible(sys.stdout)
    legible(sys.stderr)
    try:
        if os.environ.get(project.VARIABLE) and (wanted := project.others()):
            raise StageError(project.fault(wanted))
        main()
    except BrokenPipeError:
        raise
    except UnicodeEncodeError as error:
        print(f"error: {unnameable(error)}", file=sys.stderr, flush=True)
        sys.exit(failure)
    except (SettingsError, DataError, StageError, OSError, MemoryError) as error:
        separator = "\nerror: " if isinstance(error, DataError) else "; "
        text = separator.join(lines(error)) or "not enough memory"
        print(f"error: {text}", file=sys.stderr, flush=True)
        sys.exit(failure)
    except json.JSONDecodeError as error:
        print(f"error: an option is not JSON ({error})", file=sys.stderr, flush=True)
        sys.exit(failure)
    except Exception:
        # Python's own status would be 1, which may be an answer of `main`.
        if failure == 1:
            raise
        traceback.print_exc()
        sys.exit(failure)


def head(work: str, n: int, replicate: int, *details: str) -> None:
    """Begin the log of a job: the arms that it serves, its run, and what it does with which parameters.

    Logs go to standard error, because the output of commands that call a stage belongs to their users.
    """
    arms = os.environ.get(ARMS) or "run"
    print(f"{arms}: N = {n}, replicate {replicate}\n{work}: {', '.join(details)}", file=sys.stderr, flush=True)


def end(outcome: str, seconds: float) -> None:
    """End the log of a job: its outcome and its duration."""
    print(f"end: {outcome}, after {seconds:.1f} s", file=sys.stderr, flush=True)


def program(main: Callable[[], None]) -> None:
    """Run a stage that loads torch, as `command` does.  After success, end the process at once.  Does not return.

    Freeing all that torch has imported takes half a second, in a process that may train for seconds.  All files that
    a stage writes are closed by then.  Buffered output is not, so it is flushed first.
    """
    try:
        command(main)
    except SystemExit as ended:
        if ended.code:
            raise
    flush()
    os._exit(0)


def flush() -> None:
    """Flush standard output and standard error, as far as they exist."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
