"""Tables for readers: the page in the report, the lines on the terminal, and results/emm.csv over all studies.

``python -m emm.tables`` joins the tables of several studies.
"""

import argparse
import csv
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from emm.files import write_csv, write_text
from emm.stage import StageError, command

Row = Mapping[str, Any]
Answer = Callable[[Row], tuple[str, str]]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; }
table { border-collapse: collapse; }
th, td { padding: .35rem .9rem; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top; }
th { border-bottom: 2px solid #222; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; font-size: 1.1rem; padding-bottom: .6rem; }
p { max-width: 48rem; color: #555; }
"""


def cells(row: Row, answer: Answer) -> list[str]:
    """study, arm, EMM, interval, runs, images trained, minutes of computing."""
    emm, interval = answer(row)
    return [
        str(row["study"]),
        str(row["arm"]),
        emm,
        interval,
        str(row["runs"]),
        f"{int(row['images_trained']):,}",
        f"{float(row['seconds']) / 60:.1f}",
    ]


HEADINGS = ("study", "arm", "EMM", "95 % interval", "runs", "images trained", "minutes")
NUMBERS = {"EMM", "runs", "images trained", "minutes"}


def page(title: str, rows: Sequence[Row], answer: Answer) -> str:
    """A small self-contained HTML page with one row an arm."""
    head = "".join(f"<th>{html.escape(h)}</th>" for h in (*HEADINGS, "note"))
    body = ""
    for row in rows:
        texts = [*zip(HEADINGS, cells(row, answer), strict=True), ("note", str(row["note"]))]
        body += "<tr>" + "".join(
            f"<td{' class=number' if h in NUMBERS else ''}>{html.escape(text)}</td>" for h, text in texts
        )
        body += "</tr>\n"
    rules = sorted({_rule(row) for row in rows})
    return (
        "<!DOCTYPE html>\n<html lang=en><meta charset=utf-8>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>\n"
        f"<table><caption>{html.escape(title)}</caption>\n<tr>{head}</tr>\n{body}</table>\n"
        + "".join(f"<p>{html.escape(rule)}</p>" for rule in rules)
        + "</html>\n"
    )


def _rule(row: Row) -> str:
    level = 100 * (1 - float(row["epsilon"]))
    return (
        f"EMM: number of training images at which {level:g} % of the generated images are near copies, that is, their "
        f"nearest training image is closer than {float(row['threshold']):.3g} times the second nearest "
        f"({row['snapshot']} snapshot, rule {row['rule']}). Minutes: training, sampling and scoring of all runs."
    )


def lines(rows: Sequence[Row], answer: Answer) -> str:
    """The table as text, columns aligned."""
    return aligned([list(HEADINGS), *(cells(row, answer) for row in rows)])


def aligned(table: Sequence[Sequence[str]]) -> str:
    """A table as text; the first row holds the headings, columns of `NUMBERS` are set right."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    right = [heading in NUMBERS for heading in table[0]]
    return "\n".join(
        "  ".join(text.rjust(w) if r else text.ljust(w) for text, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in table
    )


def read(path: Path) -> list[dict[str, str]]:
    """The rows of one of our CSV files."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main() -> None:
    from emm.study import EMM_COLUMNS, answer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=Path, nargs="+", required=True, help="emm.csv of every study")
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--page", type=Path, required=True)
    args = parser.parse_args()
    rows = [row for path in args.studies for row in read(path)]
    if any(tuple(row) != EMM_COLUMNS for row in rows):
        raise StageError("--studies: a table has other columns than this version writes; delete it")
    write_csv(args.table, EMM_COLUMNS, rows)
    write_text(args.page, page("Effective model memorization", rows, answer))


if __name__ == "__main__":
    command(main)
