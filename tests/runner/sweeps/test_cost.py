"""The estimated cost of a sweep, from earlier runs."""

from pathlib import Path

import pytest

from cnnbench.runner.run import Request
from cnnbench.runner.sweeps.cost import sweep_cost
from cnnbench.runner.sweeps.planning import plan_sweep
from cnnbench.runner.sweeps.space import parse_axes
from tests.support.paths import EXPERIMENTS
from tests.support.samples import make_run, on_device, save

AXES, _ = parse_axes(["train.optimizer.learning_rate=0.01,0.1"])


@pytest.mark.parametrize(("command", "fixed"), [((), 26.0 - 23.5), (("--on", "local"), 1.75)])
def test_a_run_on_workers_did_not_need_the_time_that_it_was_open(
    command: tuple[str, ...], fixed: float, tmp_path: Path
) -> None:
    run = on_device(make_run(seeds=(0, 1)), command=("cnnbench", "run", *command))
    save(run, tmp_path)
    for on in ("", "local:1"):
        request = Request(EXPERIMENTS / "standard.yaml", results_dir=tmp_path, on=on)
        found = sweep_cost(plan_sweep([request], AXES, None, 0), needed=False)
        epoch = (20.5 + 3.0) / (run.record.epochs * 2)
        assert found.seconds == pytest.approx(2 * (fixed + 30 * epoch))


def test_workers_share_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnbench.runner.sweeps.cost.num_workers", lambda *_: 4)
    save(make_run(), tmp_path)
    found = []
    for on in ("", "local:4"):
        request = Request(EXPERIMENTS / "standard.yaml", results_dir=tmp_path, on=on)
        cost = sweep_cost(plan_sweep([request], AXES, None, 0), needed=False)
        found.append(cost.seconds or 0.0)
    assert found[1] == found[0] / 4 > 0
