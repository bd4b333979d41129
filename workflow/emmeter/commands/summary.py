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
    report: bool = False,
) -> None:
    """Print the EMM of each arm of the named studies (default: all), their findings, and where the figures are.

    Without a name, the experiment is that of the present configuration, and rows that it would not make are marked.

    Raises:
        StageError: the experiment has no table yet, or a table is damaged.
    """
    made: dict[tuple[str, str], str] | None = None
    folder = results / (name or "")
    if name is None:
        index = present(results, overlays)
        folder, made = index.experiment, arm_keys(index)
    names = list(studies) or sorted(path.parent.name for path in folder.glob("*/emm.csv"))
    others = experiment.others(results, folder)
    hint = f"other experiments, for `emm summary --name`: {', '.join(others)}"
    if not names:
        raise StageError(f"{folder}: holds no table yet; run snakemake first" + (f" ({hint})" if others else ""))
    tables = [folder / study / "emm.csv" for study in names]
    arms = read(tables, EMM_COLUMNS)
    claims = read([table.with_name("findings.csv") for table in tables], FINDING_COLUMNS)
    try:
        texts = [lines(arms, made), *([findings.lines(claims)] if len(claims) else [])]
    except ValueError as error:
        raise StageError(f"{folder}: a table is damaged ({error}); delete them, and run snakemake again") from None
    print("\n" + "\n\n".join(texts) + "\n")
    print(f"figures  {folder}/{names[0] if len(names) == 1 else '*'}/*.svg")
    if report:
        print(f"report   {folder / 'report.html'}")
    if name is None and others:
        print(hint)
