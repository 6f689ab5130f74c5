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
    from cnnbench.compare import compare as compare_runs
    from cnnbench.data import load_dataset
    from cnnbench.history import find_runs, list_runs
    from cnnbench.loader import load_experiment
    from cnnbench.session import Request, run_experiment
    from cnnbench.shifted import depthwise
    from cnnbench.store import read_run
    from cnnbench.trained import load_trained

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
    "Request": ("session", "Request"),
    "compare_runs": ("compare", "compare"),
    "depthwise": ("shifted", "depthwise"),
    "find_runs": ("history", "find_runs"),
    "list_runs": ("history", "list_runs"),
    "load_dataset": ("data", "load_dataset"),
    "load_experiment": ("loader", "load_experiment"),
    "load_trained": ("trained", "load_trained"),
    "read_run": ("store", "read_run"),
    "run_experiment": ("session", "run_experiment"),
}


def __getattr__(name: str) -> Any:
    """Imports a verb when it is first used, so that ``import cnnbench`` costs nothing."""
    if name not in _PLACES:
        raise AttributeError(f"module 'cnnbench' has no attribute '{name}'")
    module, attribute = _PLACES[name]
    return getattr(import_module(f"cnnbench.{module}"), attribute)
