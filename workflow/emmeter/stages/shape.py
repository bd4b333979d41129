"""The shape stage sets our results beside the published ones by shape: as a table, and as a figure."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emmeter.command import command
from emmeter.errors import StageError
from emmeter.files.tables import SHAPE_COLUMNS, read
from emmeter.files.writing import write_csv
from emmeter.measure.arms import fit_prior
from emmeter.measure.scatter import Prior
from emmeter.presentation.figures import save
from emmeter.presentation.shape import shape_rows
from emmeter.presentation.shape_figure import draw_shape
from emmeter.presentation.style import styled
from emmeter.presentation.tables import images_and_budget
from emmeter.settings.published import SCALE, Number
from emmeter.settings.sections import Figures
from emmeter.stages.study import read_arms, read_prior

MOST_KINDS = 4  # largest number of kinds of images and budgets that the figure lists


def shape(
    studies: Sequence[Mapping[str, Any]],
    records: Sequence[Path],
    style: Figures,
    prior: Prior | None = None,
    *,
    table: Path,
    figure: Path,
) -> None:
    """Write shape.csv, and its figure as SVG and PNG.

    Args:
        studies: the studies to compare; of each its `description` (`emmeter.pipeline.description`), and the `numbers`
            of its arms (`emmeter.settings.published.counterparts`) as mappings.
        records: emm.json of all arms of all these studies, in their order.
        prior: scatter of the runs of all finished arms; None: learn it from the arms of these studies.
        table: the CSV file to write.
        figure: path of which the suffix is replaced.
    Raises:
        DataError: a record has changed since it was written.
        StageError: there is no study, or not one record per arm.
    """
    if not studies:
        raise StageError("run: selects no study whose arms have published numbers; select one, such as conditioning")
    descriptions = [study["description"] for study in studies]
    counts = [len(described["arms"]) for described in descriptions]
    if len(records) != sum(counts):
        raise StageError(f"--records: {len(records)} files for {sum(counts)} arms")
    remaining = iter(records)
    arms = [
        read_arms(described, [next(remaining) for _ in range(count)])
        for described, count in zip(descriptions, counts, strict=True)
    ]
    prior = prior or fit_prior([arm for some in arms for arm in some])
    rows = []
    for study, some in zip(studies, arms, strict=True):
        numbers = {arm: [Number(**number) for number in given] for arm, given in study["numbers"].items()}
        rows += shape_rows(study["description"]["name"], some, prior, numbers)
    write_csv(table, SHAPE_COLUMNS, rows)
    titles = {described["name"]: described["title"] for described in descriptions}
    with styled():
        save(draw_shape(read([table], SHAPE_COLUMNS), titles, scales(descriptions), style), figure, style.dpi)


def scales(descriptions: Sequence[Mapping[str, Any]]) -> str:
    """Sentences on the images and the budgets, published and ours."""
    if all(described["as_published"] for described in descriptions):
        return "Images and training budgets are those of the paper."
    ours = list(dict.fromkeys(images_and_budget(described["arms"][0]) for described in descriptions))
    listed = "; ".join(ours[:MOST_KINDS]) + ("; and others" if ours[MOST_KINDS:] else "")
    return (
        "Size of images, network and training budget differ, so that only shapes compare. "
        f"Published: {images_and_budget(SCALE)}. Ours: {listed}."
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--studies", required=True, help="descriptions and published numbers of the studies as JSON")
    parser.add_argument("--records", type=Path, nargs="*", required=True, help="emm.json of every arm, in order")
    parser.add_argument("--prior", default="null", help="scatter of the runs of all finished arms as JSON")
    parser.add_argument("--style", required=True, help="settings `figures` as JSON")
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--figure", type=Path, required=True)
    args = parser.parse_args(argv)
    shape(
        json.loads(args.studies),
        args.records,
        Figures.model_validate(json.loads(args.style)),
        read_prior(args.prior),
        table=args.table,
        figure=args.figure,
    )


if __name__ == "__main__":
    command(main)
