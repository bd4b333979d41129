"""``emm init``: an overlay for the user's own images, from the template and what the images are."""

import re
from pathlib import Path

from emmeter import project
from emmeter.data import datasets
from emmeter.errors import StageError
from emmeter.files.writing import write_text
from emmeter.settings.sections import Data
from emmeter.settings.sources import respelled

TEMPLATE = Path("config/own_images.yaml")
FEWEST = 25  # images that the template's search needs


def init(images: Path, output: Path | None = None) -> None:
    """Write an overlay for a folder of images, or an .npz file, and print what to do next.

    Args:
        images: the folder, or the file.
        output: the YAML file to write (default: NAME.yaml, after the images).
    Raises:
        StageError: the file exists already, or there are too few images.
        DataError: the images cannot be read.
    """
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "-", images.resolve().stem).strip("-.") or "images"
    output = output or Path(f"{name}.yaml")
    if output.exists():
        raise StageError(f"{output}: exists already; give another name with --output")
    source = respelled(f"{'npz' if images.suffix == '.npz' else 'folder'}:{images}")
    facts = datasets.describe(Data(source=source, fit="crop"))
    count, side = facts.images, facts.shape[1]
    if count < FEWEST:
        raise StageError(f"{images}: holds {count} images; a search needs {FEWEST} or more")
    classes = [number for number in facts.class_counts or () if number]
    template = project.file(TEMPLATE)
    if not template.is_file():
        raise StageError(f"{TEMPLATE}: is missing; restore it from the repository")
    text = template.read_text(encoding="utf-8")
    body = text[text.index("name:") :]
    body = _replaced(body, r"^name: .*", f"name: {name}")
    body = _replaced(body, r"^  source: .*", f"  source: {source}")
    body = _replaced(body, r"^  resolution: .*?(#.*)?$", f"  resolution: {min(8, side)}           " + r"\1")
    body = _replaced(
        body, r"^(  balanced: .*)", "  fit: crop               # null: images that are not square are refused\n" + r"\1"
    )
    if len(classes) > 1:
        body = _replaced(body, r"^studies:\n  conditioning:\n    without: \[true-labels\].*\n", "").rstrip() + "\n"
    shape = "x".join(map(str, (*facts.shape[1:], facts.shape[0])))
    kinds = f"{len(classes)} classes" if len(classes) > 1 else "without classes"
    head = [
        f"# {count} images of {shape} values in {images}, {kinds}.",
        f"#   uv run emm check --configfile {output}        # reads the head of every image",
        f"#   uv run emm plan --configfile {output}         # estimates the time",
        f"#   uv run snakemake --configfile {output}",
        "# docs/own_images.md explains each choice.",
    ]
    write_text(output, "\n".join(head) + "\n" + body)
    print(f"{output}: written, for {count} images of {shape} values")
    print("\n".join(line.removeprefix("#   ") for line in head[1:4]))


def _replaced(text: str, pattern: str, new: str) -> str:
    """The text with the one match of a pattern replaced.  Raises StageError if the template has none."""
    changed, count = re.subn(pattern, new, text, count=1, flags=re.MULTILINE)
    if not count:
        raise StageError(f"{TEMPLATE}: has no line like {pattern!r}; restore it from the repository")
    return changed
