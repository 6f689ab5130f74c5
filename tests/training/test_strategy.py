"""Minimum memory of training, and the errors if it does not fit."""

from pathlib import Path
from typing import Any

import jax
import pytest

from cnnbench.errors import OutOfMemoryError
from cnnbench.spec.loader import load_experiment
from cnnbench.system import host
from cnnbench.training import autotune
from cnnbench.training.executables import set_up
from cnnbench.training.footprint import Footprint, footprint, out_of_memory, require_memory
from cnnbench.training.state import num_params
from cnnbench.training.strategy import Strategy
from tests.support.paths import EXPERIMENTS
from tests.training.test_trainer import CONV, make_dataset, make_job

STANDARD = load_experiment(EXPERIMENTS / "standard.yaml").plan
PLAIN, ROWS = Strategy("plain", None, 1, 1), Strategy("fast", 10, 2, 1)
GIB = 2**30


def test_footprint_counts_every_layers_output() -> None:
    assert STANDARD is not None
    values = sum(node.layout.shape[0] * 1 for node in STANDARD.nodes if len(node.layout.shape) == 1)
    images = [node.layout.shape for node in STANDARD.nodes if len(node.layout.shape) == 3]
    values += sum(h * w * c for h, w, c in images)
    need = footprint(STANDARD, PLAIN, 500, slots=1)
    # Parameters, their gradients and one momentum value each.
    assert need == Footprint(3 * 160_362 * 4, 4 * values, 500)
    assert need.total == need.fixed + 500 * need.per_image
    assert footprint(STANDARD, ROWS, 500, slots=1).images == 20
    assert footprint(STANDARD, ROWS, 7, slots=1).images == 7


@pytest.mark.parametrize(
    ("name", "slots"), [("sgd", 1), ("adam", 2), ("adagrad", 1), ("adadelta", 2), ("muon", None)]
)
def test_slots_count_the_optimizer_state(name: str, slots: int | None) -> None:
    """Muon has a momentum per kernel, and two moments for the rest."""
    job = make_job(CONV, make_dataset(8, 1, 1), optimizer={"name": name}, batch_size=4)
    assert job.plan is not None
    found = autotune._slots(job, job.plan)
    assert found == slots if slots else 1 < found < 2
    setup = set_up(job, PLAIN)
    state = setup.state(setup.network(0))
    kept = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert kept == pytest.approx(found * num_params(state.params))


def test_networks_that_fit_are_accepted() -> None:
    assert STANDARD is not None
    need = Footprint(fixed=100, per_image=10, images=20)
    require_memory(STANDARD, need, 300, rows=False)
    require_memory(STANDARD, need, None, rows=False)


@pytest.mark.parametrize(
    ("free", "rows", "remedy"),
    [
        (299, False, "write train.batch_size=19 or less"),
        (111, False, "write train.batch_size=1 or less"),
        (109, False, "use smaller layers"),
        (299, True, "use smaller layers"),
    ],
)
def test_networks_that_cannot_fit_are_refused(free: int, rows: bool, remedy: str) -> None:
    assert STANDARD is not None
    need = Footprint(fixed=100, per_image=10, images=20)
    with pytest.raises(OutOfMemoryError) as caught:
        require_memory(STANDARD, need, free, rows=rows)
    assert str(caught.value) == (
        f"training needs at least 300 B, but only {free} B are free: conv1 (832 parameters,"
        " 24x24x32 per image), dense1 (131,328 parameters, 256 per image), pool1 (0 parameters,"
        f" 12x12x32 per image); {remedy}."
    )


def test_the_recommended_batch_size_fits() -> None:
    assert STANDARD is not None
    need = footprint(STANDARD, PLAIN, 100_000, slots=1)
    fits = need.images_within(GIB)
    assert footprint(STANDARD, PLAIN, fits, slots=1).total <= GIB
    assert footprint(STANDARD, PLAIN, fits + 1, slots=1).total > GIB


def test_strategies_that_do_not_fit_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(CONV, make_dataset(90, 1, 1), engine="auto", num_devices=2, batch_size=90)
    assert job.plan is not None
    needs = [footprint(job.plan, s, job.batch_size, 1).total for s in autotune._fitting(job)]
    assert max(needs) > min(needs)
    monkeypatch.setattr(autotune, "free_memory", lambda _: max(needs) - 1)
    assert "plain" not in {strategy.form for strategy in autotune._fitting(job)}
    monkeypatch.setattr(autotune, "free_memory", lambda _: min(needs) - 1)
    with pytest.raises(OutOfMemoryError, match="use smaller layers"):
        autotune._fitting(job)


def test_auto_takes_whole_batches_only_with_memory_to_spare(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forms(engine: Any, free: float) -> set[str]:
        job = make_job(CONV, make_dataset(90, 1, 1), engine=engine, batch_size=90)
        monkeypatch.setattr(autotune, "free_memory", lambda _: free)
        return {strategy.form for strategy in autotune._fitting(job)}

    job = make_job(CONV, make_dataset(90, 1, 1), engine="whole", batch_size=90)
    assert job.plan is not None
    (strategy,) = autotune._fitting(job)
    need = footprint(job.plan, strategy, job.batch_size, 1).total
    assert "whole" in forms("auto", autotune.SPARE * need)
    assert forms("auto", autotune.SPARE * need - 1) >= {"direct", "plain"}
    assert "whole" not in forms("auto", autotune.SPARE * need - 1)
    assert forms("whole", need) == {"whole"}


def test_a_requested_engine_has_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(CONV, make_dataset(90, 1, 1), engine="plain", batch_size=90)
    assert job.plan is not None
    need = footprint(job.plan, PLAIN, job.batch_size, 1)
    monkeypatch.setattr(autotune, "free_memory", lambda _: need.total - 1)
    with pytest.raises(OutOfMemoryError, match=f"train.batch_size={job.batch_size - 1} or less"):
        autotune.known_choice(job)


def test_out_of_memory_errors_name_the_largest_layers() -> None:
    assert str(out_of_memory(STANDARD, 500)).startswith(
        "out of memory with batch size 500: conv1 (832 parameters"
    )
    assert str(out_of_memory(None, 1)) == (
        "out of memory with batch size 1; write train.batch_size=1 or less."
    )


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB\n"}
GROUP = {
    "sys/fs/cgroup/memory.max": "4000000\n",
    "sys/fs/cgroup/memory.current": "3000000\n",
    "sys/fs/cgroup/memory.stat": "anon 5\nfile 500000\n",
}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        (MEMINFO, 5000 * 1024),
        (GROUP, 1_500_000),
        (MEMINFO | GROUP, 1_500_000),
        (MEMINFO | GROUP | {"sys/fs/cgroup/memory.max": "max\n"}, 5000 * 1024),
        (GROUP | {"sys/fs/cgroup/memory.current": "5000000\n"}, 0),
    ],
)
def test_free_memory_of_machine_and_container(
    tmp_path: Path, files: dict[str, str], free: int | None
) -> None:
    assert host.free_bytes(write(tmp_path, files)) == free
