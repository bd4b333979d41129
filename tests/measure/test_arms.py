"""Arms with finished searches: what they share, and advice for arms without an EMM."""

import pytest

from emmeter.measure.advice import advice
from emmeter.measure.arms import fit_prior
from emmeter.measure.scatter import Prior
from tests.made_up import arm

PRIOR = Prior(0.2, 6.0, 40)


def test_runs_that_arms_share_count_once_for_the_prior():
    """An arm under a second name narrows no interval."""
    arms = [arm(f"arm-{seed}", emm, seed) for seed, emm in enumerate((30.0, 60.0, 90.0))]
    assert fit_prior([*arms, *arms[:2], arms[0]]) == fit_prior(arms)


@pytest.mark.parametrize(
    ("status", "changes", "words"),
    [
        ("below", {"multiple": 1}, "lower search.n_min (to at least 2)"),
        ("below", {}, "no smaller subset exists: set data.balanced: false, or train longer"),
        ("at_least", {}, "raise search.n_max (to at most 1740)"),
        ("at_least", {"available": 640}, "no larger subset"),
    ],
)
def test_advice_for_bounds_is_possible(status, changes, words):
    bounded = arm("bounded", 1.0 if status == "below" else 5000.0, 3, **changes)
    estimate = bounded.estimate(PRIOR)
    assert estimate.status == status
    assert words in advice(bounded, estimate)
