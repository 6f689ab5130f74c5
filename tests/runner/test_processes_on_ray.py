"""One training in several processes that Ray places, by the script of the documentation."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cnnbench.runs.find import list_runs
from cnnbench.runs.folder import read_run
from tests.runner.test_processes import TINY, curve, num_epochs, trained_here
from tests.support.paths import ROOT

# Ray starts its processes by fork and exec; JAX warns of the fork if other tests have started it.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(r"ignore:os\.fork\(\):RuntimeWarning")]
PAGE = ROOT / "docs" / "how-to" / "several-processes.md"


@pytest.fixture
def environ() -> Iterator[dict[str, str]]:
    """Variables of a cluster of two machines that are processes of one."""
    pytest.importorskip("ray", reason="needs the extra 'ray'")
    from ray.cluster_utils import Cluster

    one = {"num_cpus": 2, "object_store_memory": 100 << 20}
    found = Cluster(initialize_head=True, head_node_args=one | {"include_dashboard": False})
    found.add_node(**one)
    variables = {"RAY_ADDRESS": found.address, "RAY_USAGE_STATS_ENABLED": "0"}
    yield os.environ | variables | {"PYTHONPATH": str(ROOT)}
    found.shutdown()


def start(folder: Path, environ: dict[str, str], *words: str) -> "subprocess.Popen[str]":
    """Starts the script in a folder with the experiment."""
    script = re.search(r"(?ms)^```python\n(# on_ray\.py\n.*?)^```", PAGE.read_text())
    assert script
    (folder / "on_ray.py").write_text(script[1])
    (folder / "tiny.yaml").write_text(TINY)
    return subprocess.Popen(
        [sys.executable, "on_ray.py", *words],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def members(folder: Path) -> dict[int, int]:
    """Processes that train in a folder, by their number in the group."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            variables = (place / "environ").read_bytes()
            number = re.search(rb"CNNBENCH_PROCESS_ID=(\d+)", variables)
            if number and (place / "cwd").readlink() == folder:
                found[int(number[1])] = int(place.name)
    return found


def test_a_member_is_killed_and_the_others_end_and_are_resumed(
    environ: dict[str, str], tmp_path: Path
) -> None:
    words = ("--epochs", "30", "--engine", "direct", "train.batch_size=64", "--results-dir", "r")
    process = start(tmp_path, environ, "2", "run", "tiny.yaml", *words)
    deadline = time.monotonic() + 600
    while num_epochs(tmp_path / "r") < 2 and process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
        time.sleep(0.1)
    assert process.poll() is None, process.communicate()
    found = members(tmp_path)
    assert sorted(found) == [0, 1]
    os.kill(found[1], signal.SIGKILL)
    out, _ = process.communicate(timeout=600)
    assert process.returncode, out
    assert not members(tmp_path)
    (stopped,) = list_runs(tmp_path / "r").entries
    again = start(tmp_path, environ, "4", "run", "--resume", str(stopped.path))
    out, _ = again.communicate(timeout=600)
    assert again.returncode == 0, out
    resumed = read_run(stopped.path)
    one = trained_here(tmp_path, epochs=30, overrides={"train.batch_size": 64})
    assert curve(resumed) == pytest.approx(curve(one), rel=1e-2)
