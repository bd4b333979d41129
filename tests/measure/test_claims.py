"""Findings: verdicts from intervals and limits, further runs, and the tables and pages that tell them."""

import csv
import html
import itertools
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.stats import norm

from emmeter.files.tables import FINDING_COLUMNS, read
from emmeter.files.writing import write_csv
from emmeter.measure.claims import POWER, Judgement, judge, worded
from emmeter.measure.contrasts import Contrast
from emmeter.measure.onset import Growth
from emmeter.presentation.findings import MARKS, cells, lines, page, remedy, sentence, tally
from emmeter.settings.studies import Finding
from emmeter.stages.study import claim_rows

INF = math.inf


def claim(expect: str, *arms: str, margin: float = 1.25, **rest: Any) -> Finding:
    return Finding.model_validate({"claim": "It does", "expect": expect, "arms": list(arms), "margin": margin} | rest)


def known(contrasts: dict[tuple[str, str], Contrast]):
    """Contrasts that are the same at every confidence."""
    return lambda first, second, confidence: contrasts[first, second]


def verdict(expect: str, low: float, high: float, ratio: float | None = 1.0, margin: float = 1.25) -> str:
    """Of a claim about two arms, a over b."""
    return judge(claim(expect, "a", "b", margin=margin), known({("a", "b"): Contrast(ratio, low, high)}), 4).verdict


# Verdicts


@pytest.mark.parametrize(
    ("low", "high", "more", "less"),
    [
        (1.01, 2, "reproduced", "contradicted"),
        (0.5, 0.99, "contradicted", "reproduced"),
        (0.9, 2, "not resolved", "not resolved"),
        (1, 2, "not resolved", "not resolved"),  # an interval that touches 1 holds it
        (0.5, 1, "not resolved", "not resolved"),
    ],
)
def test_more_and_less(low, high, more, less):
    assert verdict("more", low, high) == more
    assert verdict("less", low, high) == less


@pytest.mark.parametrize(
    ("low", "high", "more"),
    [
        (12.8, INF, "reproduced"),
        (1, INF, "reproduced"),  # >= 640 against < 640
        (0, 1, "contradicted"),
        (0, 0.3, "contradicted"),
        (0.25, 1, "contradicted"),  # < 1000 against >= 1000
        (1, 4, "reproduced"),
        (0.5, 2, "not resolved"),
        (0.8, INF, "not resolved"),
        (0, INF, "not resolved"),
        (1, 1, "not resolved"),
    ],
)
def test_limits_decide_where_they_leave_one_order(low, high, more):
    assert verdict("more", low, high, None) == more
    opposite = {"reproduced": "contradicted", "contradicted": "reproduced"}.get(more, more)
    assert verdict("less", low, high, None) == opposite


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.9, 1.2, "reproduced"),
        (1.05, 1.2, "reproduced"),  # different, but by less than the margin
        (0.7, 1.1, "not resolved"),
        (0.9, 1.25, "not resolved"),  # touches the margin
        (0.8, 1.1, "not resolved"),
        (1.3, 2, "contradicted"),
        (0.3, 0.79, "contradicted"),
        (1.25, 2, "not resolved"),
    ],
)
def test_same_within_a_margin(low, high, expected):
    assert verdict("same", low, high) == expected


def test_limits_may_contradict_but_hardly_show_sameness():
    assert verdict("same", 1.3, INF, None) == "contradicted"
    assert verdict("same", 0, 0.5, None) == "contradicted"
    assert verdict("same", 0, INF, None) == "not resolved"
    assert verdict("same", 0.8, 1.4, margin=1.5) == "reproduced"


def row_of_arms(*steps: tuple[float, float], ends: tuple[float, float]) -> dict[tuple[str, str], Contrast]:
    """Contrasts of arms a, b, c, ...: each with the one before, and the last with the first."""
    names = "abcdef"[: len(steps) + 1]
    middle = [Contrast(math.sqrt(low * high), low, high, True) for low, high in (*steps, ends)]
    pairs = [*zip(names[1:], names, strict=False), (names[-1], names[0])]
    return dict(zip(pairs, middle, strict=True))


@pytest.mark.parametrize(
    ("steps", "ends", "increasing", "decreasing"),
    [
        ([(1.1, 2), (1.1, 2)], (1.5, 3), "reproduced", "contradicted"),
        ([(0.9, 2), (0.8, 2)], (1.2, 3), "reproduced", "contradicted"),  # neighbours may be too close to tell
        ([(1.5, 4), (0.6, 0.9)], (1.1, 3), "contradicted", "contradicted"),  # up and down: neither claim holds
        ([(0.8, 1.3), (0.8, 1.3)], (0.7, 1.6), "not resolved", "not resolved"),
        ([(0.5, 0.9), (0.5, 0.9)], (0.3, 0.8), "contradicted", "reproduced"),
    ],
)
def test_along_a_row_of_arms(steps, ends, increasing, decreasing):
    compare = row_of_arms(*steps, ends=ends)
    judged = judge(claim("increasing", "a", "b", "c"), known(compare), 4)
    assert judged.verdict == increasing
    assert (judged.low, judged.high, judged.paired) == (*ends, True)  # the effect is that of the ends
    assert judge(claim("decreasing", "a", "b", "c"), known(compare), 4).verdict == decreasing


def test_many_steps_are_tested_more_strictly():
    """Each of nine steps at 1 - 0.05/9, the ends at 0.95."""
    asked = []

    def compare(first: str, second: str, confidence: float) -> Contrast:
        asked.append((first, second, round(confidence, 6)))
        return Contrast(1.0, 0.5, 2.0)

    names = [f"arm-{i}" for i in range(10)]
    judge(claim("increasing", *names), compare, 4)
    assert asked[0] == (names[-1], names[0], 0.95)
    assert asked[1:] == [(b, a, round(1 - 0.05 / 9, 6)) for a, b in itertools.pairwise(names)]


def test_equal_arms_in_a_row_are_seldom_called_reversed():
    """Ten arms of one true EMM, independent estimates: contradicted in 2 to 5 %, not in 19 %."""
    rng, contradicted = np.random.default_rng(5), 0
    names = [f"arm-{i}" for i in range(10)]
    for _ in range(1000):
        logs = dict(zip(names, 0.2 * rng.standard_normal(10), strict=True))

        def compare(first: str, second: str, confidence: float, logs=logs) -> Contrast:
            middle, half = logs[first] - logs[second], 0.2 * math.sqrt(2) * norm.ppf((1 + confidence) / 2)
            return Contrast(2**middle, 2 ** (middle - half), 2 ** (middle + half))

        contradicted += judge(claim("increasing", *names), compare, 4).verdict == "contradicted"
    assert contradicted <= 60  # the ends alone contradict in 2.5 %


def test_a_neighbour_that_goes_the_other_way_is_named():
    compare = row_of_arms((1.5, 4), (0.6, 0.9), (1.2, 4), ends=(1.1, 3))
    judged = judge(claim("increasing", "a", "b", "c", "d"), known(compare), 4)
    assert judged.verdict == "contradicted"
    assert judged.note == "From b to c it goes the other way."
    assert judged.further is None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.85, 1.2, "reproduced"),
        (0.7, 1.2, "not resolved"),
        (1.4, 1.9, "contradicted"),
        (-0.2, 0.5, "contradicted"),
        (-0.2, 1.1, "not resolved"),
    ],
)
def test_proportional_from_the_growth_of_the_onset(low, high, expected):
    judged = judge(claim("proportional", "a", margin=1.3), known({}), 4, Growth((low + high) / 2, low, high, 8))
    assert (judged.verdict, judged.effect, judged.low, judged.high) == (expected, (low + high) / 2, low, high)
    assert judged.note == "Exponent of N, 8 runs."


def test_runs_without_an_onset_are_told():
    judged = judge(claim("proportional", "a", margin=1.3), known({}), 4, Growth(1.0, 0.9, 1.1, 8, left_out=3))
    assert judged.note == "Exponent of N, 8 runs; 3 without an onset are left out."


def test_proportional_without_growth_is_not_resolved():
    judged = judge(claim("proportional", "a"), known({}), 4)
    assert (judged.verdict, judged.effect, judged.low, judged.high) == ("not resolved", None, 0, INF)
    assert judged.note


# Further runs


def further(expect: str, ratio: float, half: float, confirm: int = 4, margin: float = 1.25) -> int | None:
    """Of an interval `half` octaves (a touch less, against rounding) either side of `ratio`."""
    half *= 1 - 1e-9
    found = Contrast(ratio, ratio * 2**-half, ratio * 2**half)
    return judge(claim(expect, "a", "b", margin=margin), known({("a", "b"): found}), confirm).further


@pytest.mark.parametrize(
    ("expect", "ratio", "half", "expected"),
    [
        ("more", 2**0.5, 1.0, 29),  # twice the distance from 1: four times the runs, and twice that for the chance
        ("less", 2**0.5, 1.0, 29),
        ("more", 2**0.5, 0.75, 15),
        ("more", 2**0.5, 0.501, 5),
        ("more", 2**0.01, 1.0, None),  # 40,000 runs
        ("more", 1.0, 1.0, None),
        ("same", 1.0, 1.0, 29),  # the margin of sqrt 2 is half an octave away
        ("same", 2**0.25, 0.5, 29),
        ("same", 2**1.0, 1.0, 29),  # as far outside the margin
        ("more", 2**0.5, 0.25, None),  # resolved
    ],
)
def test_further_runs_narrow_the_interval_by_their_root(expect, ratio, half, expected):
    assert further(expect, ratio, half, margin=math.sqrt(2)) == expected


@hypothesis_settings(max_examples=100, deadline=None, derandomize=True)
@given(
    ratio=st.floats(1.05, 4), excess=st.floats(1.001, 5), confirm=st.integers(4, 20), down=st.booleans()
)  # half width over distance
def test_further_runs_are_the_fewest_that_decide(ratio, excess, confirm, down):
    half = excess * math.log2(ratio)
    number = further("more", 1 / ratio if down else ratio, half, confirm)
    assert number is not None

    def narrowed(runs: int) -> float:
        """Half width, and what the estimate may lie nearer by chance in one of five cases."""
        return half * (1 + POWER) * math.sqrt(confirm / runs)

    assert narrowed(confirm + number) <= math.log2(ratio) * (1 + 1e-9)
    assert number == 1 or narrowed(confirm + number - 1) > math.log2(ratio) * (1 - 1e-9)


def test_further_runs_decide_with_a_chance_of_80_percent():
    """A true ratio at the estimated one: of 4,000 repetitions with so many runs, 0.78 to 0.83 exclude 1."""
    rng, half, middle = np.random.default_rng(8), 1.0, 0.5
    number = further("more", 2**middle, half, 4)
    assert number is not None
    narrow = half * math.sqrt(4 / (4 + number))
    means = middle + narrow / 1.96 * rng.standard_normal(4000)
    assert np.mean(means > narrow) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("found", [Contrast(None, 0.5, 2), Contrast(None, 0, INF)])
def test_arms_without_an_emm_say_what_would_give_them_one(found):
    """Only arms that the claim names, and only what their own searches want."""
    wanting = {"b": "lower search.n_min.", "c": "not asked for."}
    judged = judge(claim("more", "a", "b"), known({("a", "b"): found}), 4, missing=wanting)
    assert (judged.further, judged.note) == (None, "b: lower search.n_min.")


def test_a_ratio_on_the_margin_says_that_runs_will_not_decide():
    judged = judge(claim("same", "a", "b"), known({("a", "b"): Contrast(1.25, 1.03, 1.53)}), 4)
    assert judged.further is None
    assert "margin of 1.25" in judged.note


@pytest.mark.parametrize(
    ("verdict", "source", "as_published", "expected"),
    [
        ("contradicted", "Figure 2a", False, "differs at this scale"),
        ("contradicted", "Figure 2a", True, "contradicted"),
        ("contradicted", "our own", False, "contradicted"),
        ("contradicted", "", False, "contradicted"),
        ("reproduced", "Figure 2a", False, "reproduced"),
        ("not resolved", "Figure 2a", False, "not resolved"),
    ],
)
def test_another_scale_contradicts_nobody(verdict, source, as_published, expected):
    assert worded(verdict, source, as_published) == expected


def test_no_number_of_further_runs_without_confirming_runs():
    assert further("more", 2**0.5, 1.0, confirm=0) is None


# Words and tables


@pytest.mark.parametrize(
    ("effect", "low", "high", "expected"),
    [
        ("1.649", "1.2149", "2.236", "1.65 (1.21 to 2.24)"),
        ("12.4", "9.5", "16.2", "12 (9.50 to 16)"),
        ("", "12.8", "", "at least 13"),
        ("", "", "0.3125", "at most 0.31"),
        ("", "0.5", "2", "0.50 to 2.00"),
        ("", "", "", "unknown"),
        ("0.95", "0.81", "2", "0.95 (0.81 to 2.00)"),
    ],
)
def test_effects_in_words(effect, low, high, expected):
    assert sentence({"effect": effect, "effect_low": low, "effect_high": high, "at": ""}) == expected


def test_small_limits_need_no_words():
    assert sentence({"effect": "", "effect_low": "", "effect_high": "0.0001", "at": "10"}) == "odds < 0.005"


def test_odds_are_called_odds():
    row = {"effect": "12.4", "effect_low": "0.0012", "effect_high": "123456", "at": "1000"}
    assert sentence(row) == "odds 12 (< 0.005 to > 1000)"


KEYS = {"a": ("0a0a0a0a0a", "digits, 100 images"), "b": ("0b0b0b0b0b", "digits, 200 images")}
CLAIMS = {
    "wider": claim("more", "a", "b", claim="Wider <b>& deeper</b>", source="Figure 1"),
    "even": claim("same", "a", "b", margin=1.5),
    "grows": claim("proportional", "a", margin=1.3),
}
JUDGED = [
    Judgement("reproduced", 2.0, 1.5, 2.5, True),
    Judgement("not resolved", None, 0.0, INF, False, None, "A <note>"),
    Judgement("contradicted", 0.5, 0.4, 0.6),
]


def written(folder: Path, name: str = "findings.csv", judged: list[Judgement] = JUDGED) -> Path:
    write_csv(folder / name, FINDING_COLUMNS, claim_rows("made_up", CLAIMS, judged, KEYS, True))
    return folder / name


def test_rows_leave_missing_bounds_empty():
    first, second, third = claim_rows("made_up", CLAIMS, JUDGED, KEYS, True)
    assert (first["setting"], third["setting"]) == ("digits, 100 images; digits, 200 images", "digits, 100 images")
    assert (first["arm_keys"], third["arm_keys"]) == ("0a0a0a0a0a 0b0b0b0b0b", "0a0a0a0a0a")
    assert tuple(first) == FINDING_COLUMNS
    assert (first["study"], first["finding"], first["source"], first["arms"]) == ("made_up", "wider", "Figure 1", "a b")
    assert (first["effect"], first["effect_low"], first["effect_high"], first["paired"]) == (2.0, 1.5, 2.5, True)
    assert second["effect"] is second["effect_low"] is second["effect_high"] is None
    assert [row["margin"] for row in (first, second, third)] == [None, 1.5, 1.3]  # where a margin matters


def test_every_claim_needs_its_judgement():
    with pytest.raises(ValueError, match="shorter"):
        claim_rows("made_up", CLAIMS, JUDGED[:2], KEYS, True)


def test_cells_and_lines_tell_verdict_effect_and_further_runs(tmp_path):
    judged = [Judgement("not resolved", 1.4, 0.7, 2.8, True, 12), *JUDGED[1:]]
    table = read(written(tmp_path, judged=judged))
    assert cells(table[0]) == ["made_up", "Wider <b>& deeper</b>", "not resolved", "1.40 (0.70 to 2.80)", "above 1"]
    assert cells(table[1])[3:] == ["unknown", "within 1.5 times"]
    assert cells(table[2])[3:] == ["exponent 0.50 (0.40 to 0.60)", "within 1.3 times"]
    shown, counted, opened = lines(table).split("\n\n")
    assert len(shown.splitlines()) == 1 + 3
    assert counted == tally(table)
    assert opened.splitlines() == [
        "made_up: Wider <b>& deeper</b>: 12 further runs per arm should decide (80 % chance).",
        "made_up: It does: A <note>",
    ]
    assert lines([]).endswith("0 reproduced, 0 differ at this scale, 0 not resolved")


def test_claims_that_share_runs_are_counted_beside_the_verdicts(tmp_path):
    table = read(written(tmp_path))
    assert tally(table) == (
        "1 reproduced, 1 contradicted, 0 differ at this scale, 1 not resolved; 3 of the 3 claims share the runs of "
        "one arm, so they are not independent"
    )
    assert "share" not in tally([table[0] | {"arm_keys": "x y"}, table[1] | {"arm_keys": "z w"}])
    assert remedy(table[1]) == "A <note>"


def test_page_colours_verdicts_and_escapes_everything_else(tmp_path):
    shown = page(read(written(tmp_path)))
    colours = dict(re.findall(r"<b style='color: (#[0-9A-Fa-f]{3,6})'>([^<]+)</b>", shown))
    assert {text: colour for colour, text in colours.items()} == {
        name: MARKS[name] for name in ("reproduced", "contradicted", "not resolved")
    }
    assert "<b>&" not in shown and "<note>" not in shown
    assert html.escape("Wider <b>& deeper</b>") in shown and html.escape("A <note>") in shown
    assert shown.count("<tr>") == 1 + len(CLAIMS)
    assert "<script" not in shown and "http" not in shown


def join(folder: Path, *tables: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "emmeter.stages.findings_table", "--studies", *tables]
    command += ["--table", folder / "all.csv", "--page", folder / "all.html"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_main_joins_studies_and_refuses_other_columns(tmp_path):
    one, two = written(tmp_path, "one.csv"), written(tmp_path, "two.csv")
    assert join(tmp_path, one, two).returncode == 0
    assert read(tmp_path / "all.csv") == read(one) + read(two)
    assert (tmp_path / "all.html").read_text() == page(read(one) + read(two))
    with open(tmp_path / "old.csv", "w", newline="") as file:
        csv.writer(file).writerows([FINDING_COLUMNS[:-1], ["x"] * (len(FINDING_COLUMNS) - 1)])
    (tmp_path / "new").mkdir()
    refused = join(tmp_path / "new", one, tmp_path / "old.csv")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1
    assert not list((tmp_path / "new").iterdir())


def test_a_study_without_findings_joins_as_nothing(tmp_path):
    write_csv(tmp_path / "none.csv", FINDING_COLUMNS, [])
    assert join(tmp_path, tmp_path / "none.csv").returncode == 0
    assert read(tmp_path / "all.csv") == []
