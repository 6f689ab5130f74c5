"""Worker processes of this machine: cores, environment, and the death of the driver."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cnnbench.errors import UsageError
from cnnbench.executors import choice
from cnnbench.executors.choice import On, parse_on
from cnnbench.executors.cores import available_cores, divided
from cnnbench.executors.interface import Emitted
from cnnbench.executors.local import LocalExecutor, WorkerPlace
from tests.executors import toys
from tests.executors.test_contract import ended, messages
from tests.support.limits import PATIENCE_S


def test_workers_have_cores_of_their_own() -> None:
    cores = available_cores()
    if len(cores) < 2:
        pytest.skip("needs two cores")
    with LocalExecutor([WorkerPlace(own) for own in divided(cores, 2)]) as executor:
        for number in range(8):
            executor.submit(number, toys.Where())
        found = [each.value for each in messages(executor, 8) if isinstance(each, Emitted)]
    sets = {tuple(own) for _, own, _ in found}
    assert sets == set(divided(cores, 2))
    assert all(group == pid for pid, _, group in found)  # so that children end with it


@pytest.mark.parametrize(
    ("cores", "workers", "expected"),
    [
        ((0, 1), 2, [(0,), (1,)]),
        ((0, 1), 1, [(0, 1)]),
        ((4, 5, 8, 9, 10), 2, [(4, 5), (8, 9)]),
        (tuple(range(7)), 3, [(0, 1), (2, 3), (4, 5)]),
    ],
)
def test_cores_are_divided_evenly(
    cores: tuple[int, ...], workers: int, expected: list[tuple[int, ...]]
) -> None:
    assert divided(cores, workers) == expected


def test_more_workers_than_cores() -> None:
    with pytest.raises(UsageError) as caught:
        divided((0, 1), 3)
    assert str(caught.value) == (
        "--on: 3 workers, but only 2 cores are available to this process; write --on local:2, or"
        " --on local."
    )
    with pytest.raises(UsageError, match="only 1 core is available"):
        divided((0,), 3)


@pytest.mark.parametrize("text", ["locl", "local:", "local:0", "local:-1", "local:2x", "ray:0"])
def test_other_values(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_on(text)
    assert str(caught.value) == (
        f"--on: '{text}' is not local, local:N, ray, ray:N, slurm or slurm:N; write, for example,"
        " local:2."
    )


def on_local(text: str, device: str = "auto") -> On:
    on = parse_on(text, device)
    assert isinstance(on, On)
    return on


def test_the_default_is_a_worker_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_gpus", list)
    monkeypatch.setattr(choice, "available_cores", lambda: (2, 3, 7))
    assert on_local("local").places == (WorkerPlace((2,)), WorkerPlace((3,)), WorkerPlace((7,)))


def test_a_worker_per_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "available_cores", lambda: (0, 1, 2, 3, 4))
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("JAX_PLATFORM_NAME", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-5a")
    one, other = on_local("local").places
    assert one == WorkerPlace((0, 1), {"CUDA_VISIBLE_DEVICES": "1"})
    assert other == WorkerPlace((2, 3), {"CUDA_VISIBLE_DEVICES": "GPU-5a"})
    assert len(on_local("local", "cpu").places) == 5
    with pytest.raises(UsageError) as caught:
        on_local("local:3")
    assert str(caught.value) == (
        "--on: 3 workers, but this process sees 2 GPUs; write --on local:2, or add --device cpu."
    )


def test_workers_that_cannot_start() -> None:
    with LocalExecutor([WorkerPlace(available_cores()[:1])], preload="no_such_module") as executor:
        executor.submit(0, toys.Count(1))
        with pytest.raises(RuntimeError, match="worker 1 exited with code 1 before it was ready"):
            executor.receive(PATIENCE_S)


DRIVER = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it, also in children
from cnnbench.executors.local import LocalExecutor, WorkerPlace
from tests.executors import toys
executor = LocalExecutor([WorkerPlace((0,)), WorkerPlace((0,))])
executor.submit(0, toys.Sleep())
executor.submit(1, toys.Sleep())
pids = executor.pids
for _ in range(2):
    pids += executor.receive(600).value
print(*pids, flush=True)
executor.receive(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_no_process_survives_a_driver_that_is_killed(number: signal.Signals) -> None:
    script = DRIVER.replace("(0,)", repr(available_cores()[:1]))
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment, text=True
    ) as driver:
        assert driver.stdout is not None
        pids = list(map(int, driver.stdout.readline().split()))
        assert len(pids) == 6
        driver.send_signal(number)
        driver.wait(PATIENCE_S)
    assert ended(pids)
