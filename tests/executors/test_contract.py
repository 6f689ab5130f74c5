"""What every executor promises; each has an entry in `EXECUTORS`."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from cnnbench.errors import DataError, ModelError
from cnnbench.executors.cores import available_cores
from cnnbench.executors.interface import Completed, Emitted, Executor, Failed, Lost, Message
from cnnbench.executors.local import LocalExecutor, WorkerPlace
from cnnbench.executors.ray import RayExecutor
from tests.executors import toys
from tests.support.limits import PATIENCE_S

Start = Callable[[], AbstractContextManager[Any]]  # of an executor with two slots


def local() -> LocalExecutor:
    cores = available_cores()
    return LocalExecutor([WorkerPlace(cores[:1]), WorkerPlace(cores[-1:])])


def on_ray() -> RayExecutor:
    pytest.importorskip("ray", reason="needs the extra 'ray'")
    return RayExecutor(workers=2, num_cpus=4)  # room for another executor


EXECUTORS: dict[str, Start] = {"local": local, "ray": on_ray}


@pytest.fixture(params=EXECUTORS, scope="module")
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with EXECUTORS[request.param]() as started:
        yield started


def messages(executor: Executor, number: int) -> list[Message]:
    """All messages until some tasks have ended."""
    found: list[Message] = []
    until = monotonic() + PATIENCE_S
    while sum(not isinstance(each, Emitted) for each in found) < number:
        assert monotonic() < until, found
        if message := executor.receive(0.2):
            found.append(message)
    return found


def test_messages_of_a_task_arrive_in_order(executor: Executor) -> None:
    for number in range(5):
        executor.submit(number, toys.Count(50))
    found = messages(executor, 5)
    for number in range(5):
        own = [each for each in found if each.number == number]
        assert own == [*(Emitted(number, value) for value in range(50)), Completed(number)]


def test_as_many_tasks_run_at_a_time_as_there_are_slots(executor: Executor, tmp_path: Path) -> None:
    assert executor.slots == 2
    for number in range(2):
        executor.submit(number, toys.Meet(tmp_path, 2))
    found = messages(executor, 2)
    assert len({each.value for each in found if isinstance(each, Emitted)}) == 2


def test_tasks_start_in_the_order_in_which_they_are_submitted(executor: Executor) -> None:
    for number in range(8):
        executor.submit(number, toys.Where())
    found = [each for each in messages(executor, 8) if isinstance(each, Emitted)]
    for worker in {each.value[0] for each in found}:
        order = [each.number for each in found if each.value[0] == worker]
        assert order == sorted(order)


def test_a_worker_runs_several_tasks(executor: Executor) -> None:
    for number in range(6):
        executor.submit(number, toys.Where())
    places = [each.value[0] for each in messages(executor, 6) if isinstance(each, Emitted)]
    assert len(set(places)) <= 2


def test_a_killed_worker_loses_its_task_and_is_replaced(executor: Executor, tmp_path: Path) -> None:
    task = toys.Die(tmp_path / "mark")
    executor.submit(7, task)
    alive, lost = messages(executor, 1)
    assert alive == Emitted(7, "alive")
    assert isinstance(lost, Lost)
    assert lost.number == 7
    assert "killed (SIGKILL)" in lost.reason
    executor.submit(7, task)
    assert messages(executor, 1)[1:] == [Emitted(7, "alive again"), Completed(7)]
    for number in range(2):  # both slots work
        executor.submit(number, toys.Meet(tmp_path, 3))
    messages(executor, 2)


def test_a_mistake_of_the_user_arrives_as_it_was_raised(executor: Executor) -> None:
    executor.submit(3, toys.Mistake())
    before, failed = messages(executor, 1)
    assert before == Emitted(3, "before")
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, ModelError)
    assert failed.error.key == "python"
    assert str(failed.error) == "model.python: no module named 'net'; install it."
    assert not getattr(failed.error, "__notes__", [])


@pytest.mark.parametrize(
    ("task", "kind", "text"),
    [
        (toys.Bug(), KeyError, "KeyError: 'missing'"),
        (toys.OddBug(), RuntimeError, "toys.OddError: 1 is not 2"),
        (toys.Unpicklable(), Exception, "emit(lambda: None)"),
    ],
)
def test_a_bug_arrives_with_its_traceback(
    executor: Executor, task: Any, kind: type[Exception], text: str
) -> None:
    executor.submit(4, task)
    (failed,) = messages(executor, 1)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, kind)
    assert text in "".join(failed.error.__notes__)
    assert "Traceback" in "".join(failed.error.__notes__)
    executor.submit(5, toys.Count(1))
    assert messages(executor, 1) == [Emitted(5, 0), Completed(5)]


def test_what_a_task_prints_is_no_message(executor: Executor) -> None:
    executor.submit(1, toys.Prints())
    assert messages(executor, 1) == [Emitted(1, ""), Completed(1)]


def test_large_values(executor: Executor) -> None:
    content = bytes(range(256)) * 40_000
    executor.submit(1, toys.Large(content))
    assert messages(executor, 1) == [Emitted(1, content[::-1]), Completed(1)]


def test_tasks_fetch_what_is_offered(executor: Executor) -> None:
    content, made = bytes(range(256)) * 10_000, list[str]()

    def make() -> bytes:
        made.append("content")
        return content

    def refuse() -> bytes:
        raise DataError("too large; copy it")

    executor.offer("content", make)
    executor.offer("refused", refuse)
    executor.submit(1, toys.Fetch(("content", "unknown", "content")))
    executor.submit(2, toys.Fetch(("refused",)))
    found = messages(executor, 2)
    own = [each for each in found if each.number == 1]
    assert own == [*(Emitted(1, each) for each in (content, None, content)), Completed(1)]
    (failed,) = (each for each in found if each.number == 2)
    assert isinstance(failed, Failed)
    assert (type(failed.error), str(failed.error)) == (DataError, "too large; copy it")
    assert made
    executor.submit(3, toys.Count(1))
    assert messages(executor, 1) == [Emitted(3, 0), Completed(3)]


def test_a_task_that_waits_can_be_cancelled(executor: Executor) -> None:
    executor.submit(0, toys.Sleep())
    executor.submit(1, toys.Sleep())
    executor.submit(2, toys.Count(1))
    executor.cancel(2)
    started = 0
    while started < 2:
        started += executor.receive(PATIENCE_S) is not None
    executor.cancel(0)
    executor.cancel(1)
    executor.submit(3, toys.Count(1))
    assert messages(executor, 1) == [Emitted(3, 0), Completed(3)]
    assert executor.receive(0.2) is None


def test_receive_returns_after_the_timeout(executor: Executor) -> None:
    before = monotonic()
    assert executor.receive(0.05) is None
    assert monotonic() - before < PATIENCE_S


@pytest.mark.parametrize("name", EXECUTORS)
def test_no_process_survives_the_end(name: str) -> None:
    with EXECUTORS[name]() as executor:
        executor.submit(0, toys.Sleep())
        executor.submit(1, toys.Sleep())
        pids: list[int] = []
        while len(pids) < 4:
            message = executor.receive(PATIENCE_S)
            assert isinstance(message, Emitted)
            pids += message.value
    assert ended(pids)


def ended(pids: list[int]) -> bool:
    """True if no process is alive, after some patience."""
    until = monotonic() + PATIENCE_S
    while any(map(is_alive, pids)) and monotonic() < until:
        sleep(0.05)
    return not any(map(is_alive, pids))


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    try:
        return "\nState:\tZ" not in status.read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
