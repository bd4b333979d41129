"""``emm summary``: the tables of finished studies."""

from collections.abc import Sequence
from pathlib import Path

from emmeter.commands.present import arm_keys, present
from emmeter.errors import StageError
from emmeter.files.tables import EMM_COLUMNS, FINDING_COLUMNS, read
from emmeter.pipeline import experiment
from emmeter.presentation import findings
from emmeter.presentation.tables import lines


def summary(
    results: Path,
    studies: Sequence[str] = (),
    *,
    name: str | None = None,
    overlays: Sequence[Path] = (),
    made: Sequence[str] | None = None,
) -> None:
    """Print the EMM of each arm of the named studies (default: all), their findings, and where the figures are.

    Without a name, the experiment is that of the present configuration, and rows that it would not make are marked.

    Args:
        made: pages that the workflow has just made; None: unknown.
    Raises:
        StageError: the experiment has no table yet, or a table is damaged.
    """
    keys: dict[tuple[str, str], str] | None = None
    folder = results / (name or "")
    if name is None:
        index = present(results, overlays)
        folder, keys = index.experiment, arm_keys(index)
    names = list(studies) or sorted(path.parent.name for path in folder.glob("*/emm.csv"))
    others = experiment.others(results, folder)
    hint = f"other experiments, for `emm summary --name`: {', '.join(others)}"
    if not names:
        raise StageError(f"{folder}: holds no table yet; run snakemake first" + (f" ({hint})" if others else ""))
    tables = [folder / study / "emm.csv" for study in names]
    arms = read(tables, EMM_COLUMNS)
    claims = read([table.with_name("findings.csv") for table in tables], FINDING_COLUMNS)
    try:
        texts = [lines(arms, keys), *([findings.lines(claims)] if len(claims) else [])]
    except ValueError as error:
        raise StageError(f"{folder}: a table is damaged ({error}); delete them, and run snakemake again") from None
    print("\n" + "\n\n".join(texts) + "\n")
    print(f"figures  {folder}/{names[0] if len(names) == 1 else '*'}/*.svg")
    for line in page_lines(folder / "report.html", made):
        print(line)
    if name is None and others:
        print(hint)


def page_lines(page: Path, made: Sequence[str] | None) -> list[str]:
    """Lines that name the pages of an experiment.

    Args:
        page: of all selected studies; it need not exist.
        made: pages that were just made; None: unknown.
    """
    there = [str(page)] if page.is_file() else []
    if made is None:
        return [f"report   {path}" for path in there]
    old = [path for path in there if path not in made]
    return [f"report   {path}" for path in made] + [f"not updated: {path} (`snakemake report` does)" for path in old]
