"""Tables for readers: pages in the report, and lines on the terminal."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
HEADINGS = ("study", "arm", "EMM", "95 % interval", "epochs at EMM", "runs", "images trained", "core minutes")
NUMBERS = {"EMM", "epochs at EMM", "runs", "images trained", "core minutes"}
BUDGET = (
    "EMM is no safe size: it grows with the training budget. Under a fixed number of images it tells how fast a model "
    "memorizes, under a fixed number of epochs rather how much it can hold. Core minutes: training, sampling and "
    "scoring of all runs, on one core."
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; }
table { border-collapse: collapse; }
th, td { padding: .35rem .9rem; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top; }
th { border-bottom: 2px solid #222; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
b { white-space: nowrap; }
caption { text-align: left; font-weight: 600; font-size: 1.1rem; padding-bottom: .6rem; }
p { max-width: 48rem; color: #555; }
"""


def answer(row: Row) -> tuple[str, str]:
    """EMM and its interval as a reader wants them: ("27", "24 to 31"), (">= 640", ""), ("not determined", "")."""

    def number(value: float | str) -> str:
        value = float(value)
        return f"{value:.0f}" if value >= 10 else f"{value:.1f}"

    status = row["status"]
    if status == "at_least":
        return f"≥ {number(row['emm_low'])}", ""
    if status == "below":
        return f"< {number(row['emm_high'])}", ""
    if status == "undetermined":
        return "not determined", ""
    interval = [row[c] for c in ("emm_low", "emm_high")]
    if any(v in (None, "") or (isinstance(v, float) and math.isnan(v)) for v in interval):
        return number(row["emm"]), "none"
    return number(row["emm"]), f"{number(interval[0])} to {number(interval[1])}"


def cells(row: Row) -> list[str]:
    """study, arm, EMM, interval, epochs at EMM, runs, images trained, core minutes."""
    emm, interval = answer(row)
    return [
        str(row["study"]),
        str(row["arm"]),
        emm,
        interval,
        "" if row["epochs"] in (None, "") else f"{float(row['epochs']):,.0f}",
        str(row["runs"]),
        f"{int(row['images_trained']):,}",
        f"{float(row['seconds']) / 60:.1f}",
    ]


def images_and_budget(row: Row) -> str:
    """What an EMM belongs to, in a few words: "digits at 8x8 pixels, 16,000 training images per run"."""
    amount, unit = str(row["budget"]).split() if row["budget"] else ("", "")
    training = f"{float(amount):,.15g} training {unit} per run" if amount else "no training"
    return f"{row['data']} at {row['resolution']}x{row['resolution']} pixels, {training}"


def setting(row: Row) -> str:
    """What an EMM belongs to, in words: images, training budget of each run, ratio and criterion."""
    level = 100 * (1 - float(row["epsilon"]))
    return (
        f"{images_and_budget(row)}; EMM at {level:g} % copies "
        f"(nearest training image closer than {float(row['threshold']):.3g} times the second nearest; "
        f"{row['snapshot']} snapshot, {row['rule']})"
    )


def settings_lines(rows: Sequence[Row]) -> list[str]:
    """Each setting that occurs in `rows`, with the arms that have it where there are several."""
    arms: dict[str, list[Row]] = {}
    for row in rows:
        arms.setdefault(setting(row), []).append(row)
    if len(arms) == 1:
        return [f"{text}." for text in arms]
    return [f"{_named(having, rows)}: {text}." for text, having in arms.items()]


def _named(some: Sequence[Row], rows: Sequence[Row]) -> str:
    """Arms in a few words: whole studies by their names, other arms as study/arm."""
    names = []
    for study in dict.fromkeys(str(row["study"]) for row in some):
        having = [str(row["arm"]) for row in some if row["study"] == study]
        whole = len(having) == sum(row["study"] == study for row in rows)
        names.append(study if whole else f"{study}/{', '.join(having)}")
    return "; ".join(names)


def prior_lines(rows: Sequence[Row]) -> list[str]:
    """A warning where tables were made from different knowledge of the scatter of runs, study by study."""
    known = {(str(row["prior_sd"]), str(row["prior_df"])) for row in rows if row["prior_sd"] not in (None, "")}
    if len(known) < 2:
        return []
    return [
        "These studies were made one after the other, as more and more arms told of the scatter of runs, so that the "
        "same arm may have two intervals: `snakemake STUDY` brings a study up to date."
    ]


def open_lines(rows: Sequence[Row]) -> list[str]:
    """Why each arm without an EMM has none, and what would give it one."""
    return [f"{row['study']}/{row['arm']}: {row['note']}" for row in rows if row["status"] != "estimated"]


def page(title: str, rows: Sequence[Row]) -> str:
    """A small self-contained HTML page with one row per arm."""
    body = [[html.escape(text) for text in (*cells(row), str(row["note"]))] for row in rows]
    return document(title, (*HEADINGS, "note"), body, [*settings_lines(rows), BUDGET, *prior_lines(rows)])


def document(title: str, headings: Sequence[str], body: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """A self-contained page of one table; the cells of `body` are HTML, everything else is text."""
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    classes = [" class=number" if heading in NUMBERS else "" for heading in headings]
    rows = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(classes, row, strict=True)) + "</tr>\n"
        for row in body
    )
    return (
        "<!DOCTYPE html>\n<html lang=en><meta charset=utf-8>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>\n"
        f"<table><caption>{html.escape(title)}</caption>\n<tr>{head}</tr>\n{rows}</table>\n"
        + "".join(f"<p>{html.escape(note)}</p>" for note in notes)
        + "</html>\n"
    )


def lines(rows: Sequence[Row]) -> str:
    """The table as text, columns aligned, between the settings that it belongs to and what it leaves open."""
    table = aligned([list(HEADINGS), *(cells(row) for row in rows)])
    return "\n\n".join(
        "\n".join(part) for part in (settings_lines(rows), [table], [*open_lines(rows), *prior_lines(rows)]) if part
    )


def aligned(table: Sequence[Sequence[str]]) -> str:
    """A table as text; the first row holds the headings, columns of `NUMBERS` are set right."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    right = [heading in NUMBERS for heading in table[0]]
    return "\n".join(
        "  ".join(text.rjust(w) if r else text.ljust(w) for text, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in table
    )
