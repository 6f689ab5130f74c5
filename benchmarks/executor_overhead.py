"""What workers cost: how busy short tasks keep them, and how the time for bookkeeping grows.

Tasks that sleep need no cores, so four workers fit on any machine. Run it from the repository:

    PYTHONPATH=. python -m benchmarks.executor_overhead ray
    PYTHONPATH=. python -m benchmarks.executor_overhead local
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from benchmarks.sleep_task import Sleep
from cnnbench.executors.cores import available_cores
from cnnbench.executors.interface import Completed, Executor, Failed
from cnnbench.executors.local import LocalExecutor, WorkerPlace
from cnnbench.executors.ray import RayExecutor

WORKERS = 4
COUNTS = (250, 500, 1000)


def started(name: str) -> Executor:
    """An executor with four workers."""
    if name == "ray":
        return RayExecutor(workers=WORKERS, num_cpus=WORKERS)
    return LocalExecutor((WorkerPlace(available_cores()),) * WORKERS)


def seconds_of(executor: Executor, number: int, seconds: float) -> float:
    """Wall time of a number of tasks, from the first submission to the last message."""
    begun = time.monotonic()
    for place in range(number):
        executor.submit(place, Sleep(seconds))
    left = number
    while left:
        match executor.receive():
            case Completed():
                left -= 1
            case Failed(error=error):
                raise error
    return time.monotonic() - begun


def measure(start: Callable[[], Executor], number: int, seconds: float) -> dict[str, Any]:
    """Share of the time that workers are busy, and the time per task that needs none."""
    begun = time.monotonic()
    with start() as executor:  # type: ignore[attr-defined]  # executors are context managers
        seconds_of(executor, WORKERS, 0.01)
        start_s = time.monotonic() - begun
        wall_s = seconds_of(executor, number, seconds)
        empty = {count: seconds_of(executor, count, 0.0) / count for count in COUNTS}
    return {
        "start_s": start_s,
        "wall_s": wall_s,
        "busy": number * seconds / WORKERS / wall_s,
        "milliseconds_per_empty_task": {n: 1e3 * each for n, each in empty.items()},
    }


def main() -> None:
    """Measures one kind of workers, and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("executor", choices=("ray", "local"))
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    found = measure(lambda: started(given.executor), given.tasks, given.seconds)
    print(json.dumps(found, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
