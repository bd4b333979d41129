"""Descriptions of studies: whether a scale is the paper's."""

from pathlib import Path

import pytest

from emmeter.pipeline.description import as_published
from emmeter.settings.configuration import load, read

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("overlay", "changes", "expected"),
    [
        ("config/paper.yaml", {}, True),
        ("config/paper.yaml", {"data": {"source": "cifar10"}}, True),  # its own resolution
        ("config/paper.yaml", {"data": {"source": "cifar10", "resolution": 16}, "network": {"attention": [8]}}, False),
        ("config/photographs.yaml", {}, False),
        ("config/laptop.yaml", {}, False),
    ],
)
def test_a_scale_is_published_with_the_images_and_the_budget_of_the_paper(overlay, changes, expected):
    settings = read(load([ROOT / overlay], ROOT) | changes, asked=())
    assert as_published(settings.base) is expected
