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

Written by `uv run python -m benchmarks all`; [README.md](README.md) describes each benchmark. `/ plain`, `/ tuned`:
our speed over that of this baseline, as the median over rounds, with the quartiles in brackets. Of times, it is the
baseline's over ours. `/ plain CPU`, `/ tuned CPU`: the same in processor time. `/ one`: speed over that of one
process with one thread. Of a search, `/ plain` is the cost of the paper's procedure over ours, with the extremes over
parts of the arms. Tables with the columns `ratio` and `spread` are older: median and extremes over pairs of runs,
against plain.
"""
TIMED = ("train", "sample", "score", "audit", "scaling", "end_to_end")  # on a CPU and on a GPU
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
    """Write date and versions, then a Markdown table with one column per baseline and per detail that occurs."""
    compared = list(dict.fromkeys(name for row in rows for name in row.ratios))
    baselines = [name for name in ("plain", "tuned") if any(getattr(row, name) is not None for row in rows)]
    names = list(dict.fromkeys(name for row in rows for name in row.details))
    heads = ["case", "ours", *baselines, "units", *(f"/ {name}" for name in compared), *names]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        values = [row.case, row.ours, *(getattr(row, name) for name in baselines), row.units]
        values += [_ratio(row.ratios.get(name)) for name in compared]
        lines.append([_cell(value) for value in [*values, *map(row.details.get, names)]])
    last = rows[-1]
    versions = ", ".join(f"{name} {number}" for name, number in last.versions.items())
    stamp = f"Measured {last.date} at commit {last.commit or 'unknown'}; {versions}."
    return f"{stamp}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _ratio(values: Sequence[float] | None) -> str | None:
    """Median (lower to upper quartile)."""
    if values is None:
        return None
    median, low, high = map(_cell, values)
    return f"{median} ({low} to {high})"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if 10_000 <= abs(value) < 1e7 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "/")
