"""Snakemake's logger plugin ``emmeter``: one line per finished run, and a bar on a terminal.

`profiles/default` selects it.  Snakemake loads it before any Snakefile, so nothing of the package `emmeter` is imported
here: there may be several projects on a machine, and each workflow runs its own package.  The workflow passes an
`emmeter.pipeline.live.Live` to `LogHandler.attach`, which turns events into lines.

Whatever goes wrong here must not harm the run: after any error, Snakemake's own output follows.  Its log file in
``.snakemake/log`` always has everything.
"""

import contextlib
import logging
import os
import queue
import shutil
import sys
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

REFRESH = 2.0  # seconds between two drawings of the bar, at least
SHARE = 0.05  # of the time that drawing may take
PATIENCE = 5.0  # seconds that the workflow waits for lines that are still to be printed
NOISE = (  # beginnings of messages that say nothing about the results
    "Assuming unrestricted shared filesystem usage", "Building DAG of jobs", "Using shell: ", "Group jobs: inactive",
    "Conda environments: ignored", "Singularity containers: ignored", "Select jobs to execute", "Execute ",
    "Updating checkpoint dependencies", "DAG of jobs will be updated", "Elapsed time: ", "Complete log(s): ",
    "Shutting down, this might take", "Exiting because a job execution failed", "Removing output files of failed job",
    "This was a dry-run", "The run involves checkpoint jobs", "Some jobs were triggered by provenance",
    "Rules with provenance triggered jobs", "The following jobs have been", "Reasons:", "    (check individual jobs",
    "Job stats", "Would remove temporary output", "Storing output in storage", "Cancelling snakemake on user request",
    "Will exit after finishing currently running jobs",
)  # fmt: skip
HINTS = (  # parts of Snakemake's messages about its command line and its folder, and what to do
    ("Config entries have to be defined as name=value pairs",
     "--config takes NAME=VALUE, each in quotes: --config 'search={epsilon: 0.2}'; put targets before --config"),
    ("Config entry must start with a valid identifier",
     "--config takes no dotted names; write --config 'search={epsilon: 0.2}' instead of search.epsilon=0.2"),
    ("Config file is not valid JSON or YAML",
     "a file of --configfile is not YAML; `emm check --configfile FILE` names the line"),
    ("Directory cannot be locked",
     "another snakemake works in this folder (`emm status` shows it), or one was killed; after a kill, call "
     "`snakemake --unlock` and then the same command again"),
)  # fmt: skip


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):
    """Options of the plugin."""

    plain: bool = field(default=False, metadata={"help": "print Snakemake's own output"})


class LogHandler(LogHandlerBase):
    """Prints the lines of the workflow's `Live`; without one, Snakemake's messages except `NOISE`."""

    def __post_init__(self) -> None:
        common = self.common_settings
        self.stream = sys.stdout if common.stdout else sys.stderr
        quiet = {str(getattr(word, "name", word)).lower() for word in common.quiet or ()}
        self.silent = "all" in quiet and not common.dryrun
        reasons = common.dryrun and bool(quiet) and "reason" not in quiet and "all" not in quiet
        asked = bool(self.settings and getattr(self.settings, "plain", False))
        self.plain = asked or reasons or common.printshellcmds or common.verbose or common.debug_dag
        self.live: Any = None
        self.fallback: logging.Handler | None = None
        self.shown = False  # whether the bar is on the terminal
        self.resting = False  # whether others print now
        self.ended = threading.Event()

    writes_to_stream = True  # type: ignore[assignment]
    writes_to_file = False  # type: ignore[assignment]
    has_filter = True  # type: ignore[assignment]
    has_formatter = True  # type: ignore[assignment]
    needs_rulegraph = False  # type: ignore[assignment]

    # ---- the workflow's side

    def attach(self, live: Any) -> None:
        """Let `live` make the lines from now on."""
        with self.lock_held():
            live.dryrun = self.common_settings.dryrun
            self.live = live
        if not self.plain and not self.silent and self.stream.isatty() and os.environ.get("TERM") != "dumb":
            threading.Thread(target=self._watch, daemon=True).start()

    def rest(self, events: "queue.Queue[Any]") -> None:
        """Print what is waiting in Snakemake's queue and remove the bar, because the workflow prints now.

        Called in the workflow's thread, while another one handles events.
        """
        mark, settled = logging.LogRecord("emmeter", logging.CRITICAL, "", 0, "", None, None), threading.Event()
        vars(mark)["settled"] = settled
        events.put(mark)
        settled.wait(PATIENCE)

    # ---- Snakemake's side

    def emit(self, record: logging.LogRecord) -> None:
        """Print the lines of a record."""
        if (settled := getattr(record, "settled", None)) is not None:
            self._rest()
            settled.set()
            return
        if self.plain:
            self._fall_back(record)
            return
        if self.silent:
            return
        try:
            lines = self._lines(record)
        except Exception:
            self.plain = True
            self._erase()
            self._fall_back(record)
        else:
            self._print(lines)

    def close(self) -> None:
        """Print the last lines, when Snakemake has ended."""
        if not self.ended.is_set():
            self.ended.set()
            with self.lock_held():
                self._erase()
                if not self.silent and not self.plain and self.live is not None:
                    interrupt = isinstance(sys.exc_info()[1], KeyboardInterrupt)
                    with contextlib.suppress(Exception):
                        self.live.interrupted = self.live.interrupted or interrupt
                        if interrupt:
                            sys.excepthook = _no_traceback
                        self._print(self.live.last())
        super().close()

    def lock_held(self) -> Any:
        """The handler's lock, as a context."""
        return self.lock if self.lock is not None else contextlib.nullcontext()

    def _lines(self, record: logging.LogRecord) -> list[str]:
        event = getattr(record, "event", None)
        message = str(record.msg or "")
        name = None if event is None else str(event)
        if name in (None, "error") and (hint := next((hint for part, hint in HINTS if part in message), None)):
            return [f"error: {hint}"]
        if name == "error" and self.live is None:
            missing = "FileNotFoundError" in message and "configfile" in message
            last = message.strip().splitlines()[-1].rpartition("No such file or directory: ")[2]
            return (
                [f"error: --configfile {last}: no such file; put targets before the options"] if missing else [message]
            )
        if name is None and (not message.strip() or message.startswith(NOISE)):
            return []
        if self.live is None:
            return [message] if name is None else []
        return self.live.lines(name, vars(record) | {"message_text": message}, message)

    def _fall_back(self, record: logging.LogRecord) -> None:
        """Print a record as Snakemake does."""
        if self.fallback is None:
            from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter

            common = self.common_settings
            self.fallback = ColorizingTextHandler(nocolor=common.nocolor, stream=self.stream)
            self.fallback.addFilter(
                DefaultFilter(
                    common.quiet or (), common.debug_dag, common.verbose, common.dryrun, common.printshellcmds
                )  # type: ignore[arg-type]
            )
            self.fallback.setFormatter(DefaultFormatter(common.quiet, common.show_failed_logs))  # type: ignore[arg-type]
        self.fallback.handle(record)

    # ---- the terminal

    def _rest(self) -> None:
        self._erase()
        self.resting = True
        if self.live is not None and not self.plain and not self.silent:
            with contextlib.suppress(Exception):
                self._print(self.live.results())

    def _print(self, lines: list[str]) -> None:
        self._erase()
        for line in lines:
            self._write(f"{line}\n")
        if lines:
            self._flush()

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
        except UnicodeEncodeError as error:
            self.stream.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))

    def _flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.stream.flush()

    def _erase(self) -> None:
        if self.shown:
            self._write("\r\033[K")
            self._flush()
            self.shown = False

    def _watch(self) -> None:
        """Draw the bar again and again."""
        wait = REFRESH
        while not self.ended.wait(wait):
            begun = time.monotonic()
            with self.lock_held(), contextlib.suppress(Exception):
                if self.resting or self.plain or self.ended.is_set():
                    continue
                if self.live.survey is not None:
                    self.live.refresh()
                    self._erase()
                    self._write(self.live.bar(shutil.get_terminal_size().columns))
                    self._flush()
                    self.shown = True
            wait = max(REFRESH, (time.monotonic() - begun) / SHARE)


def _no_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report an exception like Python, but an interruption by the user not at all: the last line has said it."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
