"""cnnbench: train image networks over several seeds, and find out which one is better.

The functions do what the commands do:

- `run` trains experiments (``cnnbench run``),
- `compare` compares runs and gives a verdict (``cnnbench compare``),
- `compare_over` compares experiments at several values of a key (``cnnbench compare --over``),
- `tune` tunes and compares experiments with equal budgets (``cnnbench run --tune``),
- `sweep` trains an experiment with several values of its keys (``cnnbench run FILE KEY=1,2``),
- `merge` merges the seeds of several runs (``cnnbench merge``),
- `load_runs` loads learning curves into a pandas DataFrame,
- `load_experiment` reads and checks an experiment file (``cnnbench show``),
- `load_dataset` loads the images of a dataset (``cnnbench data``),
- `load_trained` loads a trained network (``cnnbench predict``),
- `depthwise` speeds up depthwise convolutions of Python models on a CPU.

Lower-level: `run_experiment` trains a `Request`; `find_runs`, `list_runs` and `read_run` find and
read runs; `compare_runs` compares what they return. Errors that a user can cause are
`CnnbenchError`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cnnbench._version import __version__

if TYPE_CHECKING:
    from cnnbench.analysis.trained_network import load_trained
    from cnnbench.api.compare import ComparisonResult, compare
    from cnnbench.api.frames import load_runs
    from cnnbench.api.merge import merge
    from cnnbench.api.over import OverResult, compare_over
    from cnnbench.api.run import RunList, run
    from cnnbench.api.sweep import SweepOutcome, sweep
    from cnnbench.api.tune import TunedResult, tune
    from cnnbench.comparisons.comparison import compare as compare_runs
    from cnnbench.data.dataset import load_dataset
    from cnnbench.errors import CnnbenchError
    from cnnbench.nn.ops.shifted import depthwise
    from cnnbench.runner.run import Request, run_experiment
    from cnnbench.runs.find import find_runs, list_runs
    from cnnbench.runs.folder import read_run
    from cnnbench.runs.records import RunResult
    from cnnbench.spec.loader import load_experiment

__all__ = [
    "CnnbenchError",
    "ComparisonResult",
    "OverResult",
    "Request",
    "RunList",
    "RunResult",
    "SweepOutcome",
    "TunedResult",
    "__version__",
    "compare",
    "compare_over",
    "compare_runs",
    "depthwise",
    "find_runs",
    "list_runs",
    "load_dataset",
    "load_experiment",
    "load_runs",
    "load_trained",
    "merge",
    "read_run",
    "run",
    "run_experiment",
    "sweep",
    "tune",
]

_PLACES = {
    "CnnbenchError": ("errors", "CnnbenchError"),
    "ComparisonResult": ("api.compare", "ComparisonResult"),
    "OverResult": ("api.over", "OverResult"),
    "Request": ("runner.run", "Request"),
    "RunList": ("api.run", "RunList"),
    "RunResult": ("runs.records", "RunResult"),
    "SweepOutcome": ("api.sweep", "SweepOutcome"),
    "TunedResult": ("api.tune", "TunedResult"),
    "compare": ("api.compare", "compare"),
    "compare_over": ("api.over", "compare_over"),
    "compare_runs": ("comparisons.comparison", "compare"),
    "depthwise": ("nn.ops.shifted", "depthwise"),
    "find_runs": ("runs.find", "find_runs"),
    "list_runs": ("runs.find", "list_runs"),
    "load_dataset": ("data.dataset", "load_dataset"),
    "load_experiment": ("spec.loader", "load_experiment"),
    "load_runs": ("api.frames", "load_runs"),
    "load_trained": ("analysis.trained_network", "load_trained"),
    "merge": ("api.merge", "merge"),
    "read_run": ("runs.folder", "read_run"),
    "run": ("api.run", "run"),
    "run_experiment": ("runner.run", "run_experiment"),
    "sweep": ("api.sweep", "sweep"),
    "tune": ("api.tune", "tune"),
}


def __getattr__(name: str) -> Any:
    """Imports a name when it is first used, so that ``import cnnbench`` stays fast."""
    if name not in _PLACES:
        raise AttributeError(f"module 'cnnbench' has no attribute '{name}'")
    module, attribute = _PLACES[name]
    return getattr(import_module(f"cnnbench.{module}"), attribute)


def __dir__() -> list[str]:
    """Lists the public names, which a shell or notebook completes."""
    return sorted(__all__)
