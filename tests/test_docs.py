"""The documentation: its code runs, its commands and paths exist, its links lead somewhere."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = (
    "config",
    "docs",
    "examples",
    "workflow",
    "profiles",
    "tests",
    "envs",
    "benchmarks",
    ".ci",
    ".github",
    "results/reference",
)
PACKAGE = ROOT / "workflow" / "emmeter"
SUBPACKAGES = [path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()]


def page(path: Path) -> object:
    return pytest.param(path, id=path.name)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Names of a page's headings, as GitHub and the site derive them."""
    headings = re.findall(r"^#+ (.*)$", without_code(path.read_text(encoding="utf-8")), re.MULTILINE)
    texts = [re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings]
    return {re.sub(r"[ -]+", "-", text) for text in texts}


@pytest.mark.slow
def test_the_code_of_the_library_page_runs(tmp_path):
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/library.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "one_run.py").write_text(code)
    done = subprocess.run([sys.executable, "one_run.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    share = re.fullmatch(r"(\d+)% of the generated images are near copies\n", done.stdout)
    assert share is not None, done.stdout
    assert abs(int(share[1]) - 96) <= 4  # rounding differs between kinds of machines


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


@pytest.mark.parametrize("path", list(map(page, PAGES)))
def test_modules_exist(path):
    for name in re.findall(r"python -m (emmeter[\w.]*)", path.read_text(encoding="utf-8")):
        assert importlib.util.find_spec(name.rstrip(".")) is not None, name


@pytest.mark.parametrize("path", list(map(page, PAGES)))
def test_paths_exist(path):
    """Paths of the repository, and files of the package as `room/module.py`."""
    text = re.sub(r"[\w.+-]+://\S+", "", path.read_text(encoding="utf-8"))
    for name in re.findall(r"(?<![\w/.-])[\w.-]+(?:/[\w.-]+)+/?", text):
        name = name.rstrip(".")
        if name.startswith(tuple(f"{folder}/" for folder in FOLDERS)):
            assert (ROOT / name).exists(), name
        elif name.endswith(".py") and name.split("/")[0] in SUBPACKAGES:
            assert (PACKAGE / name).is_file(), name


@pytest.mark.parametrize("path", list(map(page, PAGES)))
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text(encoding="utf-8"))):
        if re.match(r"\w+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_navigation():
    listed = re.findall(r"^  - .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted({path.name for path in PAGES if path.parent.name == "docs"} | {"settings.md"})
