"""The versions named in several places agree, and the schema for editors is the settings model's."""

import ast
import itertools
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from emmeter.settings.reference import page
from emmeter.settings.written import json_schema

ROOT = Path(__file__).parents[1]


def pinned() -> dict[str, set[str]]:
    """Pinned versions of every package; several where they depend on the Python version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pins: dict[str, set[str]] = {}
    for line in project["tool"]["uv"]["constraint-dependencies"]:
        name, version = re.match(r"([^= ]+)==([^ ;]+)", line).groups()
        pins.setdefault(name, set()).add(version)
    return pins


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_conda_environments_have_the_pinned_versions(name):
    environment = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())
    packages = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert packages
    for package in packages:
        pin, version = package.split("==")
        assert version in pinned()[pin], package


# Distributions whose modules have another name.
DISTRIBUTIONS = {"yaml": "pyyaml", "PIL": "pillow", "sklearn": "scikit-learn", "fontTools": "fonttools"}
STARTED = {"workflow_report": {"snakemake"}}  # by a stage as a program of its own


def imported(module: str, seen: set[str]) -> set[str]:
    """Top-level modules that a module of the package imports, anywhere in it or in those that it imports."""
    modules: set[str] = set()
    path = ROOT / "workflow" / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if module in seen or not file.is_file():  # the latter: a name of a module, not a module
        return modules
    seen.add(module)
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
        for name in names:
            top = name.partition(".")[0]
            modules |= imported(name, seen) if top == "emmeter" else {top}
    return modules - sys.stdlib_module_names - {"emmeter"}


STAGES = {
    (module, environment)
    for path in (ROOT / "workflow/rules").glob("*.smk")
    for rule in re.split(r"\n(?=rule|checkpoint)", path.read_text())
    for environment in re.findall(r"envs/(\w+)\.yaml", rule)
    for module in re.findall(r"\bemmeter\.stages\.(\w+) --", rule)
}


def test_stages_are_found():
    assert {("train", "gpu"), ("sample", "gpu"), ("score", "gpu"), ("subset", "cpu"), ("study", "cpu")} <= STAGES


@pytest.mark.parametrize(("module", "name"), sorted(STAGES))
def test_conda_environments_have_what_their_stages_import(module, name):
    environment = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())
    packages = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    has = {package.split("==")[0].removesuffix("-cpu").removesuffix("-gpu") for package in packages}
    needs = {DISTRIBUTIONS.get(name, name) for name in imported(f"emmeter.stages.{module}", set())} | STARTED.get(
        module, set()
    )
    assert needs - has == set()


def test_every_direct_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    optional = project["project"]["optional-dependencies"].values()
    direct = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"], *itertools.chain(*optional)]
    for requirement in direct:
        if requirement.startswith("emmeter["):  # the project itself, with its optional dependencies
            continue
        assert re.match(r"[A-Za-z0-9_-]+", requirement)[0] in pinned(), requirement


def test_schema_for_editors_is_up_to_date():
    """To renew: `uv run emm schema workflow/schemas/config.schema.json`."""
    assert json.loads((ROOT / "workflow/schemas/config.schema.json").read_text()) == json_schema()


def test_page_of_settings_is_up_to_date():
    """To renew: `uv run python -m emmeter.settings.reference > docs/settings.md`."""
    assert (ROOT / "docs/settings.md").read_text() == page()


def fields(node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """All keys of a JSON schema with their schemas."""
    if isinstance(node, dict):
        for name, value in node.get("properties", {}).items():
            yield name, value
        for value in node.values():
            yield from fields(value)


def test_every_setting_has_a_description():
    """Sections, which are references, are described by their own docstrings."""
    bare = [name for name, value in fields(json_schema()) if "$ref" not in value and not value.get("description")]
    assert bare == []


def test_the_page_states_types_ranges_and_defaults():
    rows = [line.strip("| ").split(" | ") for line in page().splitlines() if line.startswith("| `")]
    table = {key.strip("`"): (kind, default) for key, kind, default, *_ in rows}
    assert table["network.channels"] == ("whole number from 4 to 4096, divisible by 2", "`128`")
    assert table["search.n_max"] == ("whole number from 2, or `null`", "`50000`")
    assert table["scoring.threshold"] == ("number above 0, below 1", "`1/3`")
    assert table["training.snapshots"] == ("list of 1 to 256 numbers above 0, up to 1", "`[0.25, 0.5, 0.75, 1.0]`")
    assert table["training.lr_ramp"] == ("span", "`200 epochs`")
    assert table["data.fit"] == ("`crop`, `pad`, or `null`", "`null`")
    assert table["arms"][1] == "required"


def test_no_machine_paths_or_addresses_of_mirrors_are_in_the_project_file():
    assert not re.search(r"https?://|file:/|/home/|/tmp/", (ROOT / "pyproject.toml").read_text())
