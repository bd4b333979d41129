"""The verdict of an audit in words."""

import math

from emmeter.data.audited import Audited
from emmeter.measure.audit import CONFIDENCE, Criterion, Finding, Rate
from emmeter.presentation.audit_tables import copied_groups, exactly, names

RULES = {
    "ratio": "distance to the nearest training image below {} times that to the second nearest",
    "calibrated": "distance to the nearest training image below {} times the mean distance of that image to its 50 "
    "nearest training images",
    "cosine": "cosine similarity of features above {}",
}


def percent(share: float) -> str:
    """A share with three significant digits, such as 0.299 % or 12.5 %."""
    return f"{100 * share:.3g} %"


def rule(criterion: Criterion) -> str:
    """What a criterion calls a copy."""
    return RULES[criterion.name].format(exactly(criterion.threshold))


def interval(rate: Rate) -> str:
    """The interval of a rate, or its limit where all or no images are counted."""
    if rate.count == 0:
        return f"at most {percent(rate.high)}"
    if rate.count == rate.of:
        return f"at least {percent(rate.low)}"
    return f"95 % interval {percent(rate.low)} to {percent(rate.high)}"


def verdict(audited: Audited) -> str:
    """The answer in one sentence, with what would decide it."""
    result = audited.result
    beyond = "" if result.held_out is None else " beyond the rate of held-out images"
    limit = f"{percent(result.limit)}{beyond}"
    if result.answer == "below":
        return f"PASSED: copies are below the limit of {limit}"
    if result.answer == "above":
        return f"FAILED: copies are above the limit of {limit}"
    return f"UNDECIDED: the interval contains the limit of {limit}; {_cure(audited)}"


def _cure(audited: Audited) -> str:
    """What would decide an undecided audit."""
    limit = audited.result.limit
    if limit == 0:
        return "no number of images proves a rate of 0: set a limit above 0"
    needed = math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-limit))
    if len(audited.generated) < needed:
        return f"compare more generated images: at least {needed:,}, none of which may be a copy"
    if audited.held_out is not None and len(audited.held_out) < len(audited.generated):
        return "compare more generated images, and more held-out images"
    return "compare more generated images"


def lines(audited: Audited, redact: bool) -> list[str]:
    """All that an audit says, one sentence per line; the last line is the verdict."""
    result, generated, train = audited.result, audited.generated, audited.train
    channels, height, width = generated.store.shape
    distinct = len(result.training.distinct)
    grouped = "" if audited.groups is None else f", {len(set(audited.groups) - {''}):,} groups"
    same = "" if distinct == len(train) else f" ({distinct:,} distinct)"
    spoken = [
        f"{len(generated):,} generated images against {len(train):,} training images{same}{grouped}, "
        f"{width}x{height}x{channels}"
    ]
    for finding in result.findings:
        spoken += criterion_lines(finding, audited, redact)
    if result.equal:
        spoken.append(f"{_images(result.equal)} equal a training image in every pixel")
    if result.leaked:
        spoken.append(
            f"held-out images that equal a training image: {result.leaked:,}; the excess is too small, remove them"
        )
    if line := nearer_line(audited):
        spoken.append(line)
    return [*spoken, verdict(audited)]


def nearer_line(audited: Audited) -> str:
    """The share of generated images that are nearer to training than to held-out images; empty without them."""
    nearer = audited.result.nearer
    if nearer is None or nearer.share is None:
        return ""
    return (
        f"nearer to a training image than to any held-out image: {percent(nearer.share.share)} "
        f"({interval(nearer.share)}); {percent(nearer.expected)} is expected of new images, more means copying"
    )


def _images(count: int) -> str:
    return f"{count:,} generated image{'s' * (count != 1)}"


def criterion_lines(finding: Finding, audited: Audited, redact: bool) -> list[str]:
    """What one criterion finds, one sentence each: copies, held-out images, training images that were copied."""
    name, rate = finding.criterion.name, finding.generated.rate
    spoken = [
        f"{name}: {rate.count:,} of {rate.of:,} generated images ({percent(rate.share)}, {interval(rate)}) are copies; "
        f"lower is better ({rule(finding.criterion)})"
    ]
    difference = finding.excess
    if finding.held_out is not None and difference is not None:
        held = finding.held_out.rate
        beyond = f"{100 * difference.value:.3g} points ({100 * difference.low:.3g} to {100 * difference.high:.3g})"
        doubtful = rate.count > 0 and difference.low <= 0
        doubt = "; real images score as high, so this criterion shows no copying here" if doubtful else ""
        spoken.append(
            f"{name}: {held.count:,} of {held.of:,} held-out images ({percent(held.share)}, {interval(held)}), which "
            f"the model never saw, count as copies; the excess is {beyond}{doubt}"
        )
    sides = finding.generated.copied(audited.result.training)
    if sides.copied:
        most = int(sides.counts.argmax())
        times = "once" if sides.counts[most] == 1 else f"{int(sides.counts[most]):,} times"
        groups = copied_groups(finding, audited)
        of_groups = "" if groups is None else f" in {groups:,} group{'s' * (groups != 1)}"
        copied = names(audited.train, redact)[most]
        copied = f"image {copied}" if copied.isdecimal() else copied  # of an array: a bare number says nothing
        spoken.append(
            f"{name}: {sides.copied:,} of {sides.train:,} training images ({percent(sides.share)}) were copied"
            f"{of_groups}, most often {copied} ({times})"
        )
    return spoken
