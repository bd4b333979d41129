"""The versions named in several places agree, and the schema for editors is the settings model's."""

import itertools
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from emm.configuration import json_schema

ROOT = Path(__file__).parents[2]


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


def test_every_direct_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    optional = project["project"]["optional-dependencies"].values()
    direct = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"], *itertools.chain(*optional)]
    for requirement in direct:
        if requirement.startswith("emm["):  # the project itself, with its optional dependencies
            continue
        assert re.match(r"[A-Za-z0-9_-]+", requirement)[0] in pinned(), requirement


def test_schema_for_editors_is_up_to_date():
    """To renew: `uv run emm schema workflow/schemas/config.schema.json`."""
    assert json.loads((ROOT / "workflow/schemas/config.schema.json").read_text()) == json_schema()


def test_no_machine_paths_or_addresses_of_mirrors_are_in_the_project_file():
    assert not re.search(r"https?://|file:/|/home/|/tmp/", (ROOT / "pyproject.toml").read_text())
