"""The tables and the record of an audit: a row per image, a row per training image that was met, all numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from emmeter.data.audited import Audited
from emmeter.data.collection.gather import Collection
from emmeter.data.collection.manifest import NOTES
from emmeter.files import checksums
from emmeter.files.provenance import commit, versions
from emmeter.measure.audit import Finding, Images
from emmeter.measure.proximity import Nearest

FORMAT = 1  # of audit.json
DIGITS = 16  # hexadecimal digits that stand for the name of a redacted image

Row = dict[str, Any]


def names(images: Collection, redact: bool) -> Sequence[str]:
    """The names of images, or the first digits of the SHA-256 of their pixels."""
    return [digest.hex()[:DIGITS] for digest in images.digests] if redact else images.names


def group_names(audited: Audited, redact: bool) -> Sequence[str] | None:
    """The group of each training image, or its number by first occurrence; empty for an image without one."""
    if audited.groups is None or not redact:
        return audited.groups
    numbers: dict[str, int] = {}
    return [str(numbers.setdefault(name, len(numbers) + 1)) if name else "" for name in audited.groups]


def image_rows(audited: Audited, redact: bool) -> list[Row]:
    """Rows of images.csv, in the order of the images."""
    result = audited.result
    rows = _rows(audited, audited.generated, result.nearest, [f.generated for f in result.findings], redact)
    if result.to_held_out is not None:
        to_train = result.nearest.squared[:, 0]
        for row, own, other in zip(rows, to_train.tolist(), result.to_held_out.tolist(), strict=True):
            row["d_held_out"] = _distance(other, audited)
            row["nearer"] = "training" if own < other else "held-out" if own > other else "equal"
    return rows


def held_out_rows(audited: Audited, redact: bool) -> list[Row]:
    """Rows of held_out.csv, in the order of the images; none without held-out images."""
    result = audited.result
    if audited.held_out is None or result.held_out is None:
        return []
    judged = [finding.held_out for finding in result.findings if finding.held_out is not None]
    return _rows(audited, audited.held_out, result.held_out, judged, redact)


def _rows(audited: Audited, images: Collection, nearest: Nearest, judged: Sequence[Images], redact: bool) -> list[Row]:
    own, training, groups = names(images, redact), names(audited.train, redact), group_names(audited, redact)
    criteria = [finding.criterion.name for finding in audited.result.findings]
    values = dict(zip(criteria, judged, strict=True))
    rows = []
    for i, name in enumerate(own):
        first, second = int(nearest.first[i]), int(nearest.second[i])
        calls = [criterion for criterion, each in values.items() if each.flags[i]]
        row: Row = {
            "file": name,
            "nearest": training[first],
            "second": training[second],
            "d1": _distance(int(nearest.squared[i, 0]), audited),
            "d2": _distance(int(nearest.squared[i, 1]), audited),
            "ratio": float(nearest.ratio[i]),
            "mirrored": bool(nearest.mirrored[i]),
            "calibrated": float(values["calibrated"].values[i]) if "calibrated" in values else None,
            "similar": training[int(values["cosine"].matches[i])] if "cosine" in values else None,
            "similarity": float(values["cosine"].values[i]) if "cosine" in values else None,
            "d_held_out": None,
            "nearer": None,
            "copy": bool(calls),
            "copy_by": " ".join(calls),
            "group": None if groups is None else groups[first],
        }
        rows.append(row | _notes(images, i, redact))
    return rows


def _notes(images: Collection, index: int, redact: bool) -> Row:
    """Label, prompt and seed of an image; empty where the manifest has none, or if they are redacted."""
    return {name: None if redact or name not in images.notes else images.notes[name][index] for name in NOTES[1:]}


def _distance(squared: int, audited: Audited) -> float:
    """Root mean square over the values of an image, in grey levels."""
    return float(np.sqrt(squared / audited.generated.store.pixels))


def training_rows(audited: Audited, redact: bool) -> list[Row]:
    """Rows of training.csv: training images that some generated image resembles most, the most copied first."""
    result = audited.result
    same = result.training.same
    matches = np.bincount(result.nearest.first, minlength=len(same))
    copies = copies_per_image(audited)
    occurrences = np.bincount(same, minlength=len(same))
    least = np.full(len(same), np.inf)
    np.minimum.at(least, result.nearest.first, result.nearest.ratio)
    met = np.flatnonzero((matches > 0) | (copies > 0))
    order = met[np.lexsort((met, least[met], -matches[met], -copies[met]))]
    own, groups = names(audited.train, redact), group_names(audited, redact)
    return [
        {
            "file": own[i],
            "occurrences": int(occurrences[i]),
            "matches": int(matches[i]),
            "copies": int(copies[i]),
            "least_ratio": float(least[i]) if np.isfinite(least[i]) else None,
            "group": None if groups is None else groups[i],
            **_notes(audited.train, i, redact),
        }
        for i in order.tolist()
    ]


def copies_per_image(audited: Audited) -> np.ndarray:
    """(N,) int64, number of generated images that any criterion calls copies of each training image."""
    result = audited.result
    pairs = [np.stack([np.flatnonzero(f.generated.flags), f.generated.matches[f.generated.flags]])
             for f in result.findings]  # fmt: skip
    distinct = np.unique(np.concatenate(pairs, axis=1), axis=1)  # two criteria that agree count once
    return np.bincount(distinct[1], minlength=len(result.training.same)).astype(np.int64)


def record(audited: Audited, redact: bool) -> Mapping[str, Any]:
    """The content of audit.json: equal inputs, settings and versions give equal bytes."""
    result, options = audited.result, audited.options
    nearer = result.nearer
    features = options.features
    return {
        "format": FORMAT,
        "answer": result.answer,
        "limit": result.limit,
        "inputs": {
            "generated": _input(audited.generated, redact),
            "train": _input(audited.train, redact)
            | {
                "distinct": len(result.training.distinct),
                "groups": None if audited.groups is None else len(set(audited.groups) - {""}),
            },
            "held_out": None if audited.held_out is None else _input(audited.held_out, redact),
        },
        "image_shape": list(audited.generated.store.shape),
        "settings": {
            "criteria": {f.criterion.name: exactly(f.criterion.threshold) for f in result.findings},
            "mirrored": options.mirrored,
            "resize": options.resize,
            "group_pattern": None if redact else options.group_pattern,
            "manifest": None if options.manifest is None else _file(options.manifest, redact),
            "features": None if features is None else _file(features, redact),
            "redact": redact,
        },
        "equal_images": result.equal,
        "held_out_equal_training": None if result.held_out is None else result.leaked,
        "criteria": [_finding(finding, audited) for finding in result.findings],
        "nearer_to_training": None if nearer is None else {
            "share": None if nearer.share is None else _rate(nearer.share),
            "ties": nearer.ties,
            "expected": nearer.expected,
        },
        "versions": versions(),
        "commit": commit(),
    }  # fmt: skip


def _input(images: Collection, redact: bool) -> Row:
    return {
        "path": None if redact else str(images.path),
        "sha256": images.sha256,
        "images": len(images),
        "ignored_files": images.ignored,
    }


def _file(path: Path, redact: bool) -> Row:
    return {"path": None if redact else str(path), "sha256": checksums.sha256(path)}


def exactly(threshold: Fraction) -> str:
    """A threshold as it is written: 0.95, or 1/3 where no short decimal is exact."""
    short = f"{float(threshold):.6g}"
    return short if Fraction(short) == threshold else str(threshold)


def _finding(finding: Finding, audited: Audited) -> Row:
    sides = finding.generated.copied(audited.result.training)
    difference = finding.excess
    return {
        "criterion": finding.criterion.name,
        "threshold": exactly(finding.criterion.threshold),
        "answer": finding.answer,
        "generated": _rate(finding.generated.rate),
        "held_out": None if finding.held_out is None else _rate(finding.held_out.rate),
        "excess": None if difference is None else asdict(difference),
        "training_images_copied": {"count": sides.copied, "of": sides.train, "most_often": int(sides.counts.max())},
        "groups_copied": copied_groups(finding, audited),
    }


def _rate(rate: Any) -> Row:
    return {"count": rate.count, "of": rate.of, "share": rate.share, "low": rate.low, "high": rate.high}


def copied_groups(finding: Finding, audited: Audited) -> int | None:
    """Number of groups with a copied training image; None without groups."""
    if audited.groups is None:
        return None
    matched = set(finding.generated.matches[finding.generated.flags].tolist())
    return len({audited.groups[position] for position in matched} - {""})
