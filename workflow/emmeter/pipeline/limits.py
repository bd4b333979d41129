"""Time limits of a run's jobs on a cluster.

Too long a limit waits in the queue; one that proves too short costs little, because a training saves its state when it
is told to end, goes on from there in the next attempt, and is given twice the time.
"""

import math
from typing import Literal

from emmeter.pipeline.costs import Costs, throughput_speed
from emmeter.pipeline.index import Index

ROOM = 1.5  # times the expected time: nodes differ, and share file systems
SHORTEST = 10  # minutes: whatever the estimate, Python must start from a file system that may be busy
UNKNOWN = 60  # minutes of the first attempt where the throughput is not known


class Limits:
    """Limits by the throughput of ``execution``, with each network counted once."""

    def __init__(self, index: Index):
        self.index, self.execution = index, index.settings.execution
        self.costs = Costs(index)

    def minutes(self, stage: Literal["train", "sample"], key: str, n: int, attempt: int, known: bool = True) -> int:
        """Limit of a job's attempt 1, 2, ...; with ``known=False`` as if the throughput were not known.

        The first estimate loads torch, and takes a second for each network.
        """
        first = UNKNOWN
        if known and self.execution.throughput is not None:
            cost, speed = self.costs.of(self.index.setups[stage, key], n), throughput_speed(self.execution.throughput)
            seconds = speed.training(cost) if stage == "train" else speed.evaluation(cost)
            first = max(SHORTEST, math.ceil(ROOM * seconds / 60))
        return min(first * 2 ** (attempt - 1), self.execution.longest_job)
