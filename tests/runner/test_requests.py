"""Requests read their experiments once, whatever is checked before training."""

from collections import Counter
from pathlib import Path

import pytest

from cnnbench.cli.commands.run import _check_test
from cnnbench.cli.looks import Wish, stopped_by
from cnnbench.cli.options import SeedTest
from cnnbench.cli.over import over_requests
from cnnbench.runner import run as running
from cnnbench.runner.run import Request, TrainingRun, check_all, opened_runs
from cnnbench.runner.tuning import plan_tuning, verdict_requests
from cnnbench.spec.loader import load_experiment
from tests.runner.test_interleaving import SPEC, Diary
from tests.support.tunings import make_tuning


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[object, ...]]:
    """How often each experiment was read, with its overrides."""
    found: Counter[tuple[object, ...]] = Counter()

    def counted(path: Path, overrides: tuple[str, ...] = (), **options: object) -> object:
        found[path.name, *overrides] += 1
        return load_experiment(path, overrides, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "load_experiment", counted)
    return found


def requests(folder: Path) -> list[Request]:
    for name in "ab":
        (folder / f"{name}.yaml").write_text(SPEC.format(name=name, seeds=[0, 1]))
    paths = [folder / f"{name}.yaml" for name in "ab"]
    return [Request(path, results_dir=folder / "results") for path in paths]


def opened(asked: list[Request]) -> None:
    """Checks the requests, and opens them as for training."""
    check_all(asked)
    with opened_runs(asked, [Diary("a", [], lambda _: None) for _ in asked], TrainingRun):
        pass


def test_with_a_test_and_looks(tmp_path: Path, reads: Counter[tuple[object, ...]]) -> None:
    asked = requests(tmp_path)
    _check_test(SeedTest.PAIRED, asked)
    wish = Wish(True, False, None, None, None, False)
    stopped, _ = stopped_by(asked, wish, ("loss", 0.05, "0", "paired"))
    opened(stopped)
    assert sorted(reads) == sorted(
        (f"{name}.yaml", *more)
        for name in "ab"
        for more in ((), (f"seeds=[{','.join(map(str, range(20)))}]",))
    )
    assert set(reads.values()) == {1}


def test_with_values_of_a_key(tmp_path: Path, reads: Counter[tuple[object, ...]]) -> None:
    opened(over_requests(requests(tmp_path), "batch_size=5,10"))
    assert len(reads) == 2 + 4
    assert set(reads.values()) == {1}


def test_with_trials(tmp_path: Path, reads: Counter[tuple[object, ...]]) -> None:
    asked = requests(tmp_path)
    plan = plan_tuning(asked, ["batch_size=5:10"], None, 1)
    check_all(asked)
    opened([trial.request for arm in plan.arms for trial in arm.trials])
    found, _ = verdict_requests(plan, make_tuning(), "session")
    opened(found[:2])
    assert set(reads.values()) == {1}
