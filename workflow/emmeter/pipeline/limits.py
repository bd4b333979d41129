"""Time limits of a run's jobs on a cluster.

A job with a long limit waits longer in the queue.  Too short a limit costs little: a training saves its state when it
receives the signal to end, and the next attempt continues from there with twice the time.
"""

import math
from typing import Literal

from emmeter.pipeline.costs import Costs, throughput_speed
from emmeter.pipeline.index import Index

ROOM = 1.5  # times the expected time: nodes differ, and share file systems
SHORTEST = 10  # minutes: Python must start, perhaps from a busy file system
UNKNOWN = 60  # minutes of the first attempt, if the throughput is unknown


class Limits:
    """Time limits from the throughput in ``execution``."""

    def __init__(self, index: Index):
        self.index, self.execution = index, index.settings.execution
        self.costs = Costs(index)

    def measuring(self, attempt: int) -> int:
        """Time limit of a job that measures all networks of an arm, in minutes; `attempt` is 1, 2, ..."""
        return min(UNKNOWN * 2 ** (attempt - 1), self.execution.longest_job)

    def minutes(self, stage: Literal["train", "sample"], key: str, n: int, attempt: int, known: bool = True) -> int:
        """Time limit of a job, in minutes.

        The first estimate loads torch and takes one second per network.

        Args:
            stage: "train" or "sample"; "sample" for the whole job of a command of the user's, which `model.minutes`
                estimates.
            key: key of the stage.
            n: number of training images.
            attempt: 1, 2, ...
            known: False ignores the throughput, so that no estimate is needed.
        """
        first, model = UNKNOWN, self.index.setups[stage, key].model
        if model.command is not None:
            first = UNKNOWN if model.minutes is None else max(SHORTEST, math.ceil(ROOM * model.minutes))
        elif known and self.execution.throughput is not None:
            cost, speed = self.costs.run(self.index.setups[stage, key], n), throughput_speed(self.execution.throughput)
            seconds = speed.training(cost) if stage == "train" else speed.evaluation(cost)
            first = max(SHORTEST, math.ceil(ROOM * seconds / 60))
        return min(first * 2 ** (attempt - 1), self.execution.longest_job)
