"""What only W&B has: groups, projects, exit codes, and a mode in which it sends data."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.errors import StoreError
from cnnbench.runner.trackers.wandb import WandbRuns
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import Status
from cnnbench.spec.loader import load_experiment
from tests.runner.test_tensorboard import CLASSIFIER
from tests.runner.trackers.test_trackers import SEEDS, train
from tests.support.wandb_files import read_wandb

pytest.importorskip("wandb", reason="wandb is not installed")


@pytest.fixture(scope="module")
def server() -> Iterator[socket.socket]:
    """W&B's address, if it used the network."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture(scope="module")
def run(server: socket.socket, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        patch.setenv("WANDB_API_KEY", "0" * 40)
        patch.delenv("WANDB_MODE", raising=False)
        return train(tmp_path_factory.mktemp("wandb"), "wandb")


def tracker(run: Path) -> WandbRuns:
    return WandbRuns(run, load_experiment(run / "resolved.yaml").experiment, read_run(run).record)


def test_nothing_is_sent(run: Path, server: socket.socket) -> None:
    server.settimeout(0.2)
    with pytest.raises(TimeoutError):
        server.accept()


def test_seeds_are_runs_of_a_group(run: Path) -> None:
    for seed in SEEDS:
        found = read_wandb(run.parent.parent, run.name, seed)
        assert (found.record.project, found.record.run_group) == ("lines", run.name)
        assert found.record.run_id == found.record.display_name == f"{run.name}-seed-{seed}"
        assert found.exit_code == 0
        assert found.record.host == "unknown"
        assert [step["epoch"] for step in found.history] == [1, 2]


@pytest.mark.parametrize(("status", "code"), [(Status.INTERRUPTED, 255), (Status.FAILED, 1)])
def test_a_run_that_stops_has_its_exit_code(run: Path, status: Status, code: int) -> None:
    again = tracker(run)
    epoch = read_run(run).epochs[0]
    again.event(epoch)
    again.ended(status)
    deadline = time.monotonic() + 60  # of the process that writes the files

    def found() -> int | None:
        return read_wandb(run.parent.parent, run.name, epoch.seed).exit_code

    while found() != code and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found() == code


def test_an_unknown_mode_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "ofline")
    (tmp_path / "lines.yaml").write_text(CLASSIFIER)
    words = ["run", str(tmp_path / "lines.yaml"), "--track", "wandb"]
    done = CliRunner().invoke(app, [*words, "--results-dir", str(tmp_path / "results")])
    assert (done.exit_code, done.stderr) == (
        2,
        "--track wandb: WANDB_MODE is 'ofline'; set it to offline, online, shared, disabled, dryrun"
        " or run, or unset it for offline.\n",
    )
    assert not (tmp_path / "results").exists()


def test_an_error_of_wandb_is_one_clear_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def fail(**options: object) -> None:
        raise wandb.errors.CommError("no service\nmore about it")

    monkeypatch.setattr(wandb, "init", fail)
    with pytest.raises(StoreError) as caught:
        tracker(run).event(read_run(run).epochs[0])
    assert str(caught.value) == f"{run.parent.parent / 'wandb'}: W&B cannot log: no service."
