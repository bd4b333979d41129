"""RESULTS.md: the latest measurement of each benchmark on each kind of hardware.

The page itself is the store: one section per kind of hardware, and in each one part per benchmark.  A new measurement
replaces its own part only.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.record import ANYWHERE, Row
from emmeter.files.writing import write_text

PAGE = Path(__file__).with_name("RESULTS.md")
HEAD = """# Results

Written by `uv run python -m benchmarks all`; [README.md](README.md) describes each benchmark. Ratio:
speed over that of the plain baseline (of a search: cost of the baseline over ours), median and extremes over pairs of
runs.
"""
TIMED = ("train", "sample", "score", "end_to_end")  # on a CPU and on a GPU
WORKFLOW = ("dag",)  # Snakemake's own time, without a GPU
SIMULATED = ("search",)
NOT_MEASURED = "not measured"

Sections = dict[str, dict[str, str]]  # hardware, benchmark, text


def update(rows: Sequence[Row], page: Path = PAGE) -> None:
    """Enter rows into the page, which is made if it is missing.

    The rows of one benchmark on one kind of hardware replace the page's earlier rows of the same pair.
    """
    sections = parse(page.read_text(encoding="utf-8")) if page.exists() else {}
    write_text(page, text(merge(sections, rows)))


def parse(page: str) -> Sections:
    """Read the measured parts of a page."""
    sections: Sections = {}
    hardware = benchmark = ""
    for line in page.splitlines():
        if match := re.fullmatch(r"## (.+)", line):
            hardware, benchmark = match[1], ""
        elif match := re.fullmatch(r"### (.+)", line):
            benchmark = match[1]
        elif hardware and benchmark:
            part = sections.setdefault(hardware, {})
            part[benchmark] = part.get(benchmark, "") + line + "\n"
    measured = {
        name: {benchmark: body.strip() for benchmark, body in parts.items() if body.strip() not in ("", NOT_MEASURED)}
        for name, parts in sections.items()
    }
    return {name: parts for name, parts in measured.items() if parts}


def merge(sections: Sections, rows: Sequence[Row]) -> Sections:
    """Replace the parts of sections whose benchmark and hardware the rows have; return new sections."""
    merged = {name: dict(parts) for name, parts in sections.items()}
    for hardware, benchmark in dict.fromkeys((row.hardware, row.benchmark) for row in rows):
        own = [row for row in rows if (row.hardware, row.benchmark) == (hardware, benchmark)]
        merged.setdefault(hardware, {})[benchmark] = table(own)
    return merged


def text(sections: Sections) -> str:
    """Write the page; expected parts without a measurement are marked as not measured."""
    shown = {ANYWHERE: {}, **sections}
    if not any(name.startswith("GPU") for name in shown):
        shown["GPU"] = {}
    parts = [HEAD]
    for hardware in sorted(shown, key=lambda name: (name == ANYWHERE, name)):
        expected = SIMULATED if hardware == ANYWHERE else TIMED + (() if hardware.startswith("GPU") else WORKFLOW)
        names = [*expected, *(name for name in shown[hardware] if name not in expected)]
        parts.append(f"## {hardware}\n")
        parts += [f"### {name}\n\n{shown[hardware].get(name, NOT_MEASURED)}\n" for name in names]
    return "\n".join(parts)


def table(rows: Sequence[Row]) -> str:
    """Write date and versions, then a Markdown table with one column per detail that occurs."""
    names = list(dict.fromkeys(name for row in rows for name in row.details))
    heads = ["case", "ratio", "spread", "ours", "plain", "units", *names]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        spread = "" if row.spread is None else f"{_cell(row.spread[0])} to {_cell(row.spread[1])}"
        values = [row.case, row.ratio, spread, row.ours, row.plain, row.units, *map(row.details.get, names)]
        lines.append([_cell(value) for value in values])
    last = rows[-1]
    versions = ", ".join(f"{name} {number}" for name, number in last.versions.items())
    stamp = f"Measured {last.date} at commit {last.commit or 'unknown'}; {versions}."
    return f"{stamp}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if 10_000 <= abs(value) < 1e7 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "/")
