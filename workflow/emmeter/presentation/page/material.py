"""What the page is made from: tables and records of an experiment as they are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emmeter.files.records import EmmRecord, ExternalRecord, SamplingRecord, SubsetRecord, TrainingRecord

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Search:
    """The finished search of an arm, as its folder holds it."""

    record: EmmRecord
    settings: str
    """settings.yaml."""
    gallery: Mapping[str, np.ndarray] | None
    """Arrays of gallery.npz; None without one of this version."""


@dataclass(frozen=True)
class File:
    """A table that the page offers for download."""

    path: str
    """In the folder of the experiment."""
    content: bytes


@dataclass(frozen=True)
class StudyMaterial:
    """Tables and searches of a study."""

    name: str
    title: str
    source: str
    factor: str
    emm: "DataFrame"
    curves: "DataFrame"
    contrasts: "DataFrame"
    findings: "DataFrame"
    onset: "DataFrame | None"
    """None without a claim about the onset."""
    budget: "DataFrame | None"
    """None without a claim of a forecast."""
    quality: "DataFrame | None"
    """None without measures of quality."""
    copied: "DataFrame | None"
    """None without measures of quality."""
    denoising: "DataFrame | None"
    """None without errors by noise level."""
    shape: "DataFrame | None"
    """Its rows of shape.csv; None without published numbers."""
    criteria: "DataFrame | None"
    """None without measures of quality."""
    searches: Mapping[str, Search]
    """By arm; arms whose folders are not there are missing."""
    files: Sequence[File]


@dataclass(frozen=True)
class Records:
    """Records of the different runs behind the page, each once; those that are not there are missing."""

    subsets: Sequence[SubsetRecord]
    trainings: Sequence[TrainingRecord]
    samplings: Sequence[SamplingRecord | ExternalRecord]


@dataclass(frozen=True)
class Material:
    """Everything that the page is made from."""

    name: str
    """Of the experiment."""
    studies: Sequence[StudyMaterial]
    records: Records
    published: "DataFrame"
    """published.csv; it may be empty."""
    files: Sequence[File]
    """Tables of all studies together."""
    configuration: str
    """The configuration in force as YAML, or nothing."""
    command: str
    """The command that made the page, or nothing."""
    settings: Mapping[str, Any]
    """Settings in force, by section; empty where they are not known."""
