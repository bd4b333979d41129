"""Files inside the page, which a click saves: the page travels alone."""

from urllib.parse import quote

from emmeter.presentation.page.material import File
from emmeter.presentation.page.parts import Download

TABLES = {
    "emm": "one row per arm: EMM, interval, status, cost",
    "findings": "one row per claim: verdict, ratio of EMMs, interval",
    "curves": "every snapshot of every run",
    "contrasts": "ratio of the EMM of each arm to that of the first",
    "onset": "when memorization sets in, for every run",
    "budget": "the law of the training budget",
    "quality": "image quality of every run, beside that of real images",
    "copied": "how many training images were copied, for every run",
    "tradeoff": "share of copies and image quality per arm and size",
    "criteria": "the claims under other criteria for copies",
    "published": "our shares of copies beside the published ones",
    "shape": "our results beside the published ones, by shape",
    "configuration": "all settings in force; snakemake --configfile takes this file",
}


def download(file: File) -> Download:
    """A file as a link that holds its content: the page travels alone."""
    stem, _, kind = file.path.rpartition("/")[2].rpartition(".")
    mime = "text/csv" if kind == "csv" else "text/plain"
    href = f"data:{mime};charset=utf-8,{quote(file.content, safe=',;:/+()=_.-|@!*~')}"
    return Download(
        path=file.path,
        name=file.path.replace("/", "-"),
        content=TABLES[stem],
        rows=max(file.content.count(b"\n") - 1, 0),
        href=href,
    )
