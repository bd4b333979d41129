"""Where the numbers of the page come from: versions, commit, machine, data, time, and cost of the different runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from emmeter.files.records import EmmRecord, ExternalRecord, SamplingRecord, SubsetRecord, TrainingRecord
from emmeter.measure.results import total
from emmeter.presentation.page.material import Records
from emmeter.presentation.page.words import span


@dataclass(frozen=True)
class Spent:
    """Cost of the different runs behind the page, each counted once.

    Attributes:
        trainings, samplings: numbers of jobs.
        images, flops: None if a command of the user's does not say.
        minutes: duration of both, in minutes.
        memory: largest memory of a training, in 10^6 bytes; 0 without any.
    """

    trainings: int
    samplings: int
    images: int | None
    flops: int | None
    minutes: float
    memory: int


@dataclass(frozen=True)
class Origin:
    """Facts from the records, each value once; several where the runs differ."""

    commits: Sequence[str]
    package: str
    versions: Sequence[str]
    hardware: Sequence[str]
    devices: Sequence[str]
    platforms: Sequence[str]
    data: Sequence[str]
    checksums: Sequence[str]
    parameters: str
    began: str
    ended: str
    spent: Spent


def origin(searches: Sequence[EmmRecord], records: Records) -> Origin | None:
    """Gather the facts from all records; None without any."""
    every: list[Mapping[str, Any]] = [*searches, *records.subsets, *records.trainings, *records.samplings]
    if not every:
        return None
    packages = dict.fromkeys(package for record in every for package in record["versions"])
    versions = {package: _different(record["versions"].get(package) for record in every) for package in packages}
    package = ", ".join(versions.pop("emmeter", ()))
    parameters = [record["parameters"] for record in records.trainings]
    return Origin(
        commits=_different(record["commit"] for record in every),
        package=package,
        versions=[f"{name} {', '.join(numbers)}" for name, numbers in versions.items()],
        hardware=_different(record["hardware"] for record in every),
        devices=[_device(name) for name in _different(record["device"] for record in records.trainings)],
        platforms=_different(record["platform"] for record in every),
        data=_different(map(data_line, records.subsets)),
        checksums=_different(record["data_sha256"] for record in records.subsets),
        parameters=span(parameters) if parameters else "",
        began=_written(min(map(_began, every))),
        ended=_written(max(datetime.fromisoformat(record["finished"]) for record in every)),
        spent=spent(records),
    )


def spent(records: Records) -> Spent:
    """The cost of the different runs."""
    jobs: list[TrainingRecord | SamplingRecord | ExternalRecord] = [*records.trainings, *records.samplings]
    return Spent(
        trainings=sum("images_trained" in record for record in jobs),
        samplings=len(records.samplings),
        images=total(record.get("images_trained", 0) for record in jobs),
        flops=total(record["flops"] for record in jobs),
        minutes=sum(record["seconds"] for record in jobs) / 60,
        memory=max((record["peak_memory_mb"] for record in records.trainings), default=0),
    )


def data_line(record: SubsetRecord) -> str:
    """The data set of a subset in words; nothing if an earlier version wrote the record."""
    if "data_title" not in record:
        return ""
    licence = record.get("data_licence")
    images = f"{record.get('data_images', 0):,} images"
    return f"{record['data_title']}, {images}, " + (f"licence: {licence}" if licence else "licence not known")


def _different(values: Iterable[str | None]) -> list[str]:
    """Values that are there, each once, in their order."""
    return list(dict.fromkeys(value for value in values if value))


def _device(name: str) -> str:
    return name.replace("1 threads", "1 thread")


def _began(record: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(record["finished"]) - timedelta(seconds=record["seconds"])


def _written(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
