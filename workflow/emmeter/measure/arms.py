"""An arm whose search has finished: its runs, and its estimate under the scatter learned from all arms."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emmeter.measure import scatter
from emmeter.measure.estimate import Estimate, estimate
from emmeter.measure.outcome import Count, RunId, count
from emmeter.measure.results import FinishedSearch
from emmeter.measure.scatter import Prior, RunVariance
from emmeter.measure.search import Trail
from emmeter.measure.trained import doubted
from emmeter.settings.sections import Search


@dataclass(frozen=True)
class ArmResult:
    """An arm of a study with its finished search.

    ``about`` is the arm's entry in the description of its study (`emmeter.pipeline.description`), ``record`` the
    content of its emm.json.
    """

    about: Mapping[str, Any]
    record: FinishedSearch

    @property
    def name(self) -> str:
        return self.about["name"]

    @functools.cached_property
    def search(self) -> Search:
        return Search.model_validate(self.about["search"])

    @functools.cached_property
    def trail(self) -> Trail:
        return Trail(self._runs("locate", "grid"), self._runs("confirm"), missing=(), status=self.record["status"])

    def _runs(self, *roles: str) -> tuple[RunId, ...]:
        return tuple(RunId(run["n"], run["replicate"]) for run in self.record["runs"] if run["role"] in roles)

    @functools.cached_property
    def counts(self) -> dict[RunId, Count]:
        """The counts that the search used."""
        return {
            RunId(run["n"], run["replicate"]): Count(run["memorized"], run["images"]) for run in self.record["runs"]
        }

    @functools.cached_property
    def best_counts(self) -> dict[RunId, Count]:
        """Counts under the paper's rule: each run's highest ratio over its snapshots."""
        return {RunId(run["n"], run["replicate"]): count(run, "best") for run in self.record["runs"]}

    def variance(self, prior: Prior | None, counts: Mapping[RunId, Count] | None = None) -> RunVariance | None:
        """Variance of a run's logit, its own moderated by `prior`; None where nothing determines it.

        Args:
            counts: `counts` by default, or `best_counts`.
        """
        return scatter.moderated(scatter.own(self.trail, self.counts if counts is None else counts), prior)

    def estimate(
        self, prior: Prior | None, counts: Mapping[RunId, Count] | None = None, confidence: float = 0.95
    ) -> Estimate:
        """EMM of the arm.

        Args:
            counts: `counts` by default, or `best_counts`.
            confidence: coverage of the interval, 0..1.
        """
        counts = self.counts if counts is None else counts
        variance = self.variance(prior, counts)
        found = estimate(self.search, self.trail, counts, self.record["sizes"], variance, confidence)
        return doubted(found, self.record["runs"])


def fit_prior(arms: Sequence[ArmResult]) -> Prior | None:
    """The prior of the scatter of runs from these arms alone; arms that share their runs count once."""
    return scatter.fit(scatter.distinct((arm.about["key"], arm.trail, arm.counts) for arm in arms))
