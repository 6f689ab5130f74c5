"""Seeds on a Ray cluster: the numbers of local workers, and nothing lost or twice."""

from pathlib import Path
from typing import Any

import pytest

from cnnbench.executors.choice import Where
from cnnbench.executors.ray import RayExecutor
from cnnbench.runner.distributed import run_on
from tests.runner.test_distributed import diaries, numbers, requests
from tests.runner.warm_workers import two_workers


class Started:
    """Two workers on a cluster of their own, of one core each."""

    def start(self, preload: str) -> RayExecutor:
        """Starts them."""
        return RayExecutor(workers=2, preload=preload, num_cpus=2)


@pytest.mark.slow
def test_equal_to_local_workers_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra 'ray'")
    seeds = {"a": [0, 1, 2, 3], "b": [0, 1, 2, 3]}
    found: dict[str, Any] = {}
    places: dict[str, Where] = {"local": two_workers(), "ray": Started()}
    for name, on in places.items():
        asked = requests(tmp_path, seeds, results_dir=tmp_path / name)
        found[name] = [numbers(run) for run in run_on(asked, diaries(2), on)]
    assert found["ray"] == found["local"]
