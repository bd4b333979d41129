"""The table of EMMs for readers: pages of the report, and lines on the terminal.

The text of the terminal and the pages are put together here and not by pandas: `DataFrame.to_string` aligns all columns
to the right, and `DataFrame.to_html` adds an index and styles of its own.
"""

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

    from emmeter.measure.estimate import Estimate

Row = Mapping[str, Any]
HEADINGS = ("study", "arm", "EMM", "95 % interval", "epochs at EMM", "runs", "images trained", "core minutes")
NUMBERS = {"EMM", "epochs at EMM", "runs", "images trained", "core minutes"}
OWN_BUDGET = "own command"  # in the column `budget`: only the command of the user knows it
BUDGET = (
    "EMM is not a safe size: it grows with the training budget. Under a fixed number of images it measures how fast a "
    "model memorizes, under a fixed number of epochs rather how much it can hold. Core minutes: duration of the "
    "training and sampling of all runs, with one core per job; scoring is not included."
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
    """EMM and its interval in words, from a row of emm.csv.

    Such as ("27", "24 to 31"), ("≥ 640", ""), ("20", "none") or ("not determined", "").
    """

    def number(value: float) -> str:
        return f"{value:.0f}" if value >= 10 else f"{value:.1f}"

    status, low, high = row["status"], row["emm_low"], row["emm_high"]
    if status == "at_least":
        return f"≥ {number(low)}", ""
    if status == "below":
        return f"< {number(high)}", ""
    if status == "undetermined":
        return "not determined", ""
    if math.isnan(low) or math.isnan(high):
        return number(row["emm"]), "none"
    return number(row["emm"]), f"{number(low)} to {number(high)}"


def brief(estimate: "Estimate") -> str:
    """EMM with its interval in a few words: "22 (19 to 24)", "≥ 640", "not determined"."""
    numbers = {"emm": estimate.emm, "emm_low": estimate.low, "emm_high": estimate.high}
    row = {name: math.nan if value is None else value for name, value in numbers.items()}
    emm, interval = answer({"status": estimate.status, **row})
    return f"{emm} ({interval})" if interval not in ("", "none") else emm


def cells(row: Row) -> list[str]:
    """The cells below `HEADINGS` for a row of emm.csv."""
    return [
        row["study"],
        row["arm"],
        *answer(row),
        "" if math.isnan(row["epochs"]) else f"{row['epochs']:,.0f}",
        f"{row['runs']:.0f}",
        "" if math.isnan(row["images_trained"]) else f"{row['images_trained']:,.0f}",
        f"{row['seconds'] / 60:.1f}",
    ]


def images_and_budget(row: Row) -> str:
    """The images and the training budget that an EMM belongs to.

    Such as "digits at 8x8 pixels, 16,000 training images per run".

    Args:
        row: a row of emm.csv, or an arm's description.
    """
    side = f"{row['resolution']:.0f}"
    return f"{row['data']} at {side}x{side} pixels, {budget_words(row['budget'])}"


def budget_words(budget: str) -> str:
    """A training budget in words.

    "16,000 training images per run" for "16000 images", "no training", or "the training of its own command".
    """
    if budget == OWN_BUDGET:
        return "the training of its own command"
    if not budget:
        return "no training"
    amount, unit = budget.split()
    return f"{float(amount):,.15g} training {unit} per run"


def setting(row: Row) -> str:
    """Everything that an EMM belongs to: images, training budget, ratio and criterion; `row` is of emm.csv."""
    return (
        f"{images_and_budget(row)}; EMM at {100 * (1 - row['epsilon']):g} % copies "
        f"(nearest training image closer than {row['threshold']:.3g} times the second nearest; "
        f"{row['snapshot']} snapshot, {row['rule']})"
    )


def settings_lines(emm: "DataFrame") -> list[str]:
    """One sentence per setting in the table; with several settings, each names its arms."""
    groups = emm.assign(text=[setting(row) for row in emm.to_dict("records")]).groupby("text", sort=False)
    if groups.ngroups == 1:
        return [f"{text}." for text, _ in groups]
    return [f"{_names(arms, emm)}: {text}." for text, arms in groups]


def _names(arms: "DataFrame", emm: "DataFrame") -> str:
    """Some arms of a table: a study whose arms are all among them by its name, other arms as study/arm."""
    names = []
    for study in arms["study"].unique():
        some = arms.loc[arms["study"] == study, "arm"]
        names.append(study if len(some) == (emm["study"] == study).sum() else f"{study}/{', '.join(some)}")
    return "; ".join(names)


def prior_lines(emm: "DataFrame") -> list[str]:
    """A warning if the tables of some studies rest on fewer arms' scatter of runs than others."""
    if len(emm[["prior_sd", "prior_df"]].dropna().drop_duplicates()) < 2:
        return []
    return [
        "These studies were made one after the other, each with the scatter of runs that was known by then, so that "
        "the same arm may have two intervals: `snakemake STUDY` brings a study up to date."
    ]


def open_lines(emm: "DataFrame") -> list[str]:
    """One line per arm without an EMM: the reason, and what would give it one."""
    arms = emm.loc[emm["status"] != "estimated"]
    return [f"{row['study']}/{row['arm']}: {row['note']}" for row in arms.to_dict("records")]


def page(title: str, emm: "DataFrame") -> str:
    """A self-contained HTML page with one row per arm of emm.csv."""
    body = [[html.escape(text) for text in (*cells(row), row["note"])] for row in emm.to_dict("records")]
    return document(title, (*HEADINGS, "note"), body, [*settings_lines(emm), BUDGET, *prior_lines(emm)])


def document(title: str, headings: Sequence[str], body: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """A self-contained HTML page of one table, with paragraphs below it.

    Args:
        body: rows of cells; cells are HTML, all other arguments are text.
    """
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


def lines(emm: "DataFrame", made: Mapping[tuple[str, str], str] | None = None) -> str:
    """emm.csv as text: the settings, the table, and one line per arm without an EMM.

    Args:
        made: keys of the searches that the present configuration makes, by study and arm.  Rows of other searches are
            marked.  None marks nothing.
    """
    rows = emm.to_dict("records")
    old = [made is not None and made.get((row["study"], row["arm"])) != row["key"] for row in rows]
    table = [cells(row | {"arm": f"{row['arm']} *"} if marked else row) for row, marked in zip(rows, old, strict=True)]
    notes = [*open_lines(emm), *prior_lines(emm)]
    if any(old):
        notes.append(
            "* The present configuration would not make this row: it has other settings, or no such arm. "
            "`snakemake STUDY` makes the tables of a study again."
        )
    parts = (settings_lines(emm), [aligned([list(HEADINGS), *table])], notes)
    return "\n\n".join("\n".join(part) for part in parts if part)


def aligned(table: Sequence[Sequence[str]]) -> str:
    """A table as text; the first row holds the headings, and columns of `NUMBERS` are aligned to the right."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    right = [heading in NUMBERS for heading in table[0]]
    return "\n".join(
        "  ".join(text.rjust(w) if r else text.ljust(w) for text, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in table
    )
