"""What the command lines of all stages share: options, one-line errors, the end of a process."""

import argparse
import codecs
import contextlib
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from emmeter import project
from emmeter.errors import DataError, SettingsError, StageError
from emmeter.settings.sections import Setup
from emmeter.settings.validation import lookup, read_setup

PLAIN = {"≥": ">=", "≤": "<=", "×": "x", "±": "+-", "−": "-", "–": "-", "—": "-", "…": "...", "‘": "'", "’": "'"}


def arguments(description: str | None, *options: str, run: bool = True) -> argparse.ArgumentParser:
    """A parser with the settings and the place of one run (N, replicate), and a path for each of `options`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--settings", required=True, help="settings of this stage as JSON")
    parser.add_argument("--key", default="", help="settings key, for the record")
    if run:
        parser.add_argument("--n", type=int, required=True, help="number of training images")
        parser.add_argument("--replicate", type=int, required=True, help="which fresh subset and training seed")
    for option in options:
        parser.add_argument(option, type=Path, required=True)
    return parser


def positive(text: str) -> int:
    """The type of options that count something.  Raises argparse's own error for anything but 1, 2, 3, ..."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text!r}")
    return int(text)


def execution_options(parser: argparse.ArgumentParser) -> None:
    """Options of stages that compute with torch; they change no result beyond rounding."""
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=positive, default=1)


def read_settings(text: str) -> Setup:
    """The `Setup` of a stage's JSON.  Raises SettingsError where it is not one, or leaves a value to the data."""
    try:
        setup = read_setup(json.loads(text))
    except json.JSONDecodeError as error:
        raise SettingsError(f"--settings: is not JSON ({error})") from None
    left = ("network.attention", "diffusion.sigma_data", "search.n_max")
    if undecided := [name for name in left if lookup(setup, name) is None]:
        raise SettingsError(*(f"{name} = None: a stage needs the value" for name in undecided))
    return setup


def plain(error: UnicodeError) -> tuple[str, int]:
    """The error handler `emm.plain` of encodings: signs that an encoding lacks as ASCII, other characters as escapes.

    A byte of a file's name that is no text (a surrogate in Python) becomes an escape too, in every encoding.
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
    """Let a stream write every text, whatever its encoding lacks.  A stream that was closed or replaced stays as is."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors != "emm.plain":
        with contextlib.suppress(OSError, ValueError):
            stream.reconfigure(errors="emm.plain")


def unnameable(error: UnicodeEncodeError) -> str:
    """One line: the locale's encoding has no name for a file."""
    return f"{error.object[:200]!r}: the encoding {error.encoding} of this locale cannot name it; set PYTHONUTF8=1"


def command(main: Callable[[], None]) -> None:
    """Run a stage's main function as a program: an expected failure is told on stderr, status 1.

    It is one line, of faulty files a line each.

    Raises BrokenPipeError where nobody reads its output any more.
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
        sys.exit(1)
    except (SettingsError, DataError, StageError, OSError, MemoryError) as error:
        between = "\nerror: " if isinstance(error, DataError) else "; "  # of faulty files each has its line
        text = between.join(str(error).splitlines()) or "not enough memory"
        print(f"error: {text}", file=sys.stderr, flush=True)
        sys.exit(1)
    except json.JSONDecodeError as error:
        print(f"error: an option is not JSON ({error})", file=sys.stderr, flush=True)
        sys.exit(1)


def program(main: Callable[[], None]) -> None:
    """Run a stage that loads torch, as `command` does; where it succeeds, end the process without taking Python apart.

    Freeing all that torch has imported takes half a second of a process that may train for seconds.  Every file that
    a stage writes is closed by then; what is buffered for its log is not, so that goes first.
    """
    try:
        command(main)
    except SystemExit as ended:
        if ended.code:
            raise
    flush()
    os._exit(0)


def flush() -> None:
    """Write out what is buffered of standard output and error, where there are any."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
