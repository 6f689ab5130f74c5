"""`cnnbench run` with a streamed folder: the same files as in memory, also after it is killed.

Trained by real processes with the users' settings.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnbench.data.catalog import DatasetInfo, ImageForm, Shares
from cnnbench.data.own.folder import FolderSource
from cnnbench.data.streaming import source
from cnnbench.data.streaming.source import StreamOptions, streams
from cnnbench.errors import DataError
from cnnbench.runner.recorder import wait_text, waits
from cnnbench.runs.records import EpochRecord
from cnnbench.runs.verify import check_run
from tests.support.environments import without
from tests.support.paths import ROOT

SPEC = """\
name: own
task: classify
dataset:
  folder: pics
  resize: {size: 4}
  normalize: auto
  on_error: skip
  augment: {random_flip: horizontal}
model:
  layers:
    drop: {op: dropout, rate: 0.2}
    out: {op: dense, units: 2}
train: {epochs: 2, batch_size: 8, drop_last: false}
"""
TIMES = ("train_s", "eval_s", "samples_per_s", "data_s")
# Kills itself after a checkpoint within the second epoch, while worker processes are running.
DYING = """
import os, signal, sys
from cnnbench.cli.app import main
from cnnbench.runs.checkpoints import Checkpoints

save = Checkpoints.save


def save_and_die(self, seed, epoch, values, step=0, machine=None):
    save(self, seed, epoch, values, step, machine)
    if (epoch, step) == (1, 2):
        os.kill(os.getpid(), signal.SIGKILL)


Checkpoints.save = save_and_die
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment and its images, one of which is damaged."""
    folder, rng = tmp_path_factory.mktemp("streaming"), np.random.default_rng(0)
    for label in range(2):
        place = folder / "pics" / f"class{label}"
        place.mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 200, (6, 5, 3), np.uint8) + 50 * label
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.png")
    (folder / "pics" / "class0" / "7.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "own.yaml").write_text(SPEC)
    (folder / "dying.py").write_text(DYING)
    return folder


def command(
    folder: Path, *words: str, program: str = "-m cnnbench", **variables: str
) -> subprocess.Popen[str]:
    environment = without("XLA_FLAGS") | {"CNNBENCH_CACHE_DIR": str(folder / "cache")} | variables
    return subprocess.Popen(
        [sys.executable, *program.split(), "run", *words, "--device", "cpu", "--workers", "2"],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_folder(folder: Path, results: str) -> Path:
    (found,) = (folder / results / "own").iterdir()
    return found


def outcome(run: Path) -> tuple[list[dict[str, Any]], bytes, str]:
    """Epochs without times, weights, and the digest of the images."""
    lines = [json.loads(line) for line in (run / "epochs.jsonl").read_text().splitlines()]
    epochs = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    weights = (run / "weights" / "seed-0.safetensors").read_bytes()
    return epochs, weights, json.loads((run / "run.json").read_text())["dataset"]["digest"]


@pytest.fixture(scope="module")
def in_memory(folder: Path) -> tuple[list[dict[str, Any]], bytes, str]:
    process = command(folder, "own.yaml", "--results-dir", "memory", "-q")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "class0/7.png" in errors
    return outcome(run_folder(folder, "memory"))


@pytest.mark.slow
def test_a_streamed_run_is_the_same_also_after_it_is_killed(
    folder: Path, in_memory: tuple[list[dict[str, Any]], bytes, str]
) -> None:
    words = ("dataset.streaming=true", "checkpoint.every_steps=2", "--results-dir", "streamed")
    process = command(folder, "own.yaml", *words, program="dying.py")
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert _ends(process.pid)
    run = run_folder(folder, "streamed")
    names = [file.name for file in (run / "checkpoints" / "seed-0").iterdir()]
    assert sorted(names) == ["epoch-1-step-2.safetensors", "epoch-1.safetensors"]
    resumed = command(folder, "--resume", str(run))
    _, errors = resumed.communicate()
    assert resumed.returncode == 0, errors
    assert "Traceback" not in errors
    assert "leaked" not in errors
    assert outcome(run) == in_memory
    assert json.loads((run / "run.json").read_text())["dataset"]["streamed"]
    assert list(check_run(run)) == []


@pytest.mark.slow
def test_two_processes_stream_what_one_has_in_memory(
    folder: Path, in_memory: tuple[list[dict[str, Any]], bytes, str]
) -> None:
    """Each decodes its part of every batch; killed in the second epoch, and resumed by both."""
    words = ("dataset.streaming=true", "checkpoint.every_steps=2", "--results-dir", "two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    group = {"CNNBENCH_COORDINATOR": address, "CNNBENCH_NUM_PROCESSES": "2"}
    first, second = (
        command(folder, "own.yaml", *words, program=program, CNNBENCH_PROCESS_ID=place, **group)
        for place, program in (("0", "dying.py"), ("1", "-m cnnbench"))
    )
    _, errors = first.communicate()
    assert first.returncode == -signal.SIGKILL, errors
    _, errors = second.communicate(timeout=120)
    assert second.returncode > 0, errors
    assert _ends(first.pid)
    assert _ends(second.pid)
    run = run_folder(folder, "two")
    resumed = command(folder, "--resume", str(run), "--processes", "2")
    _, errors = resumed.communicate()
    assert resumed.returncode == 0, errors
    assert "Traceback" not in errors
    (wanted, _, digest), (found, _, own) = in_memory, outcome(run)
    assert own == digest
    for epoch, want in zip(found, wanted, strict=True):
        losses = ("train_loss", "validation_loss")
        assert [epoch[key] for key in losses] == pytest.approx([want[key] for key in losses], 1e-5)
    record = json.loads((run / "run.json").read_text())
    assert record["dataset"]["streamed"]
    assert record["environment"]["num_processes"] == 2


def _ends(group: int) -> bool:
    """True if all processes of a group end."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_the_first_unreadable_image_is_named(folder: Path) -> None:
    words = ("dataset.streaming=true", "dataset.on_error=stop", "--results-dir", "stopped", "-q")
    process = command(folder, "own.yaml", *words)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert len([line for line in errors.splitlines() if "7.png" in line]) == 1
    assert "is a damaged or unsupported PNG file" in " ".join(errors.split())
    assert "Traceback" not in errors


# When a dataset is streamed.

OWN = FolderSource(Path("pics"), ImageForm(None, "stretch", 3, (0, 0, 0)), Shares())
INFO = DatasetInfo("pics", (64, 64, 3), 2, 900_000, 100_000, "a folder of images")
SIZE = 1_000_000 * 64 * 64 * 3


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the available memory in bytes, and that of the device."""

    def set_(host: int | None, device: int | None = None) -> StreamOptions:
        monkeypatch.setattr(source, "free_bytes", lambda: host)
        return StreamOptions(device_memory=lambda: device)

    return set_


@pytest.mark.parametrize(
    ("host", "device", "reason"),
    [
        (3 * SIZE, None, ""),
        (3 * SIZE - 1, None, "34.3 GiB of memory"),
        (None, None, ""),
        (4 * SIZE, SIZE, ""),
        (4 * SIZE, SIZE - 1, "11.4 GiB of memory of the device"),
    ],
)
def test_images_are_streamed_if_they_do_not_fit(
    memory: Any, host: int | None, device: int | None, reason: str
) -> None:
    notes: list[str] = []
    assert streams("auto", OWN, INFO, memory(host, device), notes.append) == bool(reason)
    size = "dataset 'pics': 11.4 GiB of decoded images"
    assert notes == ([f"{size}, with {reason} available, are streamed."] if reason else [])


def test_the_experiment_decides(memory: Any) -> None:
    assert streams(True, OWN, INFO, memory(10 * SIZE), pytest.fail)
    assert not streams(False, OWN, INFO, memory(1), pytest.fail)
    assert not streams("auto", object(), INFO, memory(1), pytest.fail)  # cannot be streamed


def test_images_that_do_not_fit_require_grain(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(DataError) as caught:
        streams("auto", OWN, INFO, memory(SIZE), pytest.fail)
    assert str(caught.value) == (
        "dataset 'pics': 11.4 GiB of decoded images, with 11.4 GiB of memory available, have to be"
        " streamed, which requires grain; pip install 'cnnbench[streaming]'"
    )


def test_workers_are_one_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, want in ((1, 1), (5, 5), (64, 16)):
        monkeypatch.setattr(source, "num_cpus", lambda n=cores: n)
        assert StreamOptions().num_workers == want
    assert StreamOptions(workers=40).num_workers == 40


# Waiting.


def epoch(train_s: float, eval_s: float, data_s: float) -> EpochRecord:
    return EpochRecord(0, 2, 0.5, 0.5, {}, train_s, eval_s, 100.0, data_s=data_s)


@pytest.mark.parametrize(
    ("record", "want"),
    [
        (epoch(90, 10, 10), False),
        (epoch(90, 10, 10.5), True),
        (epoch(8, 2, 5), False),  # the processes started
        (epoch(8, 2, 5.5), True),
    ],
)
def test_the_user_is_told_that_the_device_waits(record: EpochRecord, want: bool) -> None:
    assert waits(record) == want


def test_what_the_user_is_told() -> None:
    assert wait_text(epoch(90, 10, 34), 2) == (
        "the device waited for images in 34% of epoch 2, with 2 workers; raise --workers if there"
        " are idle cores, or store smaller images"
    )
    assert "with 1 worker;" in wait_text(epoch(90, 10, 34), 1)
