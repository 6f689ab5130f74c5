"""cnnbench: an honest answer about a neural-network architecture, in minutes.

The library does what the command line does:

- `load_experiment` reads and checks an experiment file (``cnnbench show``),
- `run_experiment` trains a `Request` and writes its folder (``cnnbench run``),
- `find_runs`, `list_runs` and `read_run` find and read runs (``cnnbench list``),
- `compare_runs` puts runs side by side (``cnnbench compare``),
- `load_dataset` gives the images of a dataset (``cnnbench data``),
- `depthwise` makes depthwise convolutions of Python models faster on a CPU.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cnnbench._version import __version__

if TYPE_CHECKING:
    from cnnbench.analysis.trained_network import load_trained
    from cnnbench.comparisons.comparison import compare as compare_runs
    from cnnbench.data.dataset import load_dataset
    from cnnbench.nn.ops.shifted import depthwise
    from cnnbench.runner.run import Request, run_experiment
    from cnnbench.runs.find import find_runs, list_runs
    from cnnbench.runs.folder import read_run
    from cnnbench.spec.loader import load_experiment

__all__ = [
    "Request",
    "__version__",
    "compare_runs",
    "depthwise",
    "find_runs",
    "list_runs",
    "load_dataset",
    "load_experiment",
    "load_trained",
    "read_run",
    "run_experiment",
]

_PLACES = {
    "Request": ("runner.run", "Request"),
    "compare_runs": ("comparisons.comparison", "compare"),
    "depthwise": ("nn.ops.shifted", "depthwise"),
    "find_runs": ("runs.find", "find_runs"),
    "list_runs": ("runs.find", "list_runs"),
    "load_dataset": ("data.dataset", "load_dataset"),
    "load_experiment": ("spec.loader", "load_experiment"),
    "load_trained": ("analysis.trained_network", "load_trained"),
    "read_run": ("runs.folder", "read_run"),
    "run_experiment": ("runner.run", "run_experiment"),
}


def __getattr__(name: str) -> Any:
    """Imports a verb when it is first used, so that ``import cnnbench`` costs nothing."""
    if name not in _PLACES:
        raise AttributeError(f"module 'cnnbench' has no attribute '{name}'")
    module, attribute = _PLACES[name]
    return getattr(import_module(f"cnnbench.{module}"), attribute)
