"""A training from the side of its run folder, wherever it runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnbench.data.dataset import Dataset
from cnnbench.graph.plan import Plan
from cnnbench.runs.records import Environment
from cnnbench.spec.experiment import Experiment
from cnnbench.system.stopwatch import Timing


@dataclass(frozen=True, slots=True)
class RunWork:
    """A training that a run folder records; a `Job` without its devices.

    Args:
      experiment: the experiment.
      plan: its network; None for a Python model.
      folder: folder of the experiment file, from which Python models are imported.
      dataset: the dataset.
      environment: software and hardware that trains, and the command line.
      timing: returns the seconds spent in each part so far.
      reference: class of a Python model, ``module:Class``.
      snapshots: True if the weights after each epoch are recorded.
      workers: worker processes that decode the images of a streamed dataset.
      any_order: True if seeds are trained at the same time and end in any order.
      track: names of trackers besides TensorBoard.
    """

    experiment: Experiment
    plan: Plan | None
    folder: Path
    dataset: Dataset
    environment: Environment
    timing: Callable[[], Timing]
    reference: str = ""
    snapshots: bool = False
    workers: int = 1
    any_order: bool = False
    track: Sequence[str] = ()

    @property
    def num_train(self) -> int:
        """Number of training images."""
        return len(self.dataset.train.labels)

    @property
    def batch_size(self) -> int:
        """Images per step, at most the number of training images."""
        return min(self.experiment.train.batch_size, self.num_train)
