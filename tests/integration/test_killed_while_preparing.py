"""A process is killed while it prepares images for others: one of them does the work, once."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cnnbench.data.decoded import cache_file
from cnnbench.system.cache import read_entry
from cnnbench.system.files import PARTIAL
from tests.support.environments import without
from tests.support.paths import ROOT

KEY = "pics 1"
# The two places where images are prepared under a lock: the user's files, and datasets by name.
# A process that is to be killed stops while it decodes, or before the finished file has its name.
PROGRAM = f"""
import os, sys, time
import numpy as np
from cnnbench.data import dataset
from cnnbench.data.catalog import DatasetInfo
from cnnbench.data.decoded import decoded_files
from cnnbench.system.cache import CacheEntry

way, stop = sys.argv[1:]


def say(text):
    print(text, flush=True)


def stops(*_):
    say("stopped")
    time.sleep(600)


def prepared():
    with open("log", "a") as log:
        log.write("decoded\\n")
    if stop == "decoding":
        stops()
    return CacheEntry({{"images": np.arange(3)}}, "made here", "{KEY}")


class Files:
    def decode(self, key, notify):
        return prepared()


if stop == "writing":
    os.replace = stops
if way == "files":
    entry = decoded_files(Files(), "{KEY}", say)
else:
    dataset.prepared_key = lambda info, folder: "{KEY}"
    dataset._fetch = lambda info, folder, notify: prepared()
    entry = dataset._load(DatasetInfo("pics", (1, 1, 1), 2, 3, 0, "pictures"), None, say)
say(entry.arrays["images"].tolist())
"""


@contextmanager
def started(folder: Path, way: str, stop: str = "") -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, folder / "program.py", way, stop],
        cwd=folder,
        env=without("XLA_FLAGS") | {"CNNBENCH_CACHE_DIR": str(folder), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def partial(folder: Path) -> list[Path]:
    """Files that were not written to their end."""
    return list((folder / "datasets").glob(f".*{PARTIAL}"))


@pytest.mark.parametrize("way", ["files", "name"])
@pytest.mark.parametrize("stop", ["decoding", "writing"])
@pytest.mark.sampled(1)
def test_one_of_the_others_takes_over(
    way: str, stop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path))
    (tmp_path / "program.py").write_text(PROGRAM)
    with ExitStack() as processes:
        first = processes.enter_context(started(tmp_path, way, stop))
        assert line(first) == "stopped"
        others = [processes.enter_context(started(tmp_path, way)) for _ in range(2)]
        for other in others:
            assert line(other).startswith("Waiting for another process to ")
        assert (tmp_path / "log").read_text() == "decoded\n"
        assert len(partial(tmp_path)) == (stop == "writing")
        first.kill()
        for other in others:
            found, errors = other.communicate(timeout=60)
            assert (found, errors) == ("[0, 1, 2]\n", "")
    assert (tmp_path / "log").read_text() == "decoded\n" * 2  # the one that was killed, another
    kept = read_entry(cache_file(KEY), KEY, pytest.fail)
    assert kept is not None
    assert kept.arrays["images"].tolist() == [0, 1, 2]
    assert partial(tmp_path) == []
