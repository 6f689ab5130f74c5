"""Two concurrent processes: their runs, shared caches and downloads, and locks.

Stale locks of dead processes are tested in `test_locks` and, for whole runs, in `test_faults`;
atomicity of cache files in `test_cache`.
"""

import functools
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cnnbench.cli.progress import Silent
from cnnbench.errors import StoreError
from cnnbench.runner.run import Request, run_experiment
from cnnbench.runs.folder import RunFolder
from cnnbench.runs.verify import check_run
from cnnbench.system.array_files import decode
from cnnbench.system.cache import read_entry
from cnnbench.system.compile_cache import ProgramFiles
from cnnbench.system.locks import is_held
from tests.integration.test_faults import Server, numbers
from tests.support.tinysets import FILENAMES, write_idx_files

SPEC = """\
name: tiny
task: classify
dataset: {name: mnist}
model:
  layers:
    conv1: {op: conv, filters: 3, kernel: 5, stride: 3}
    drop1: {op: dropout, rate: 0.5}
    dense1: {op: dense, units: 10}
train: {epochs: 2, batch_size: 20}
"""
RUN = ["run", "tiny.yaml", "--engine", "direct", "--quiet", "--data-dir", "sets"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("cache"))
    yield found
    found.close()


@pytest.fixture
def task(tmp_path: Path) -> dict[str, Any]:
    """A run on the files of a tiny MNIST, with an empty cache."""
    (tmp_path / "tiny.yaml").write_text(SPEC)
    write_idx_files(tmp_path / "sets")
    mnist = [str(tmp_path / "sets"), "http://nowhere"]
    return {"args": RUN, "cwd": str(tmp_path), "cache": str(tmp_path / "cache"), "mnist": mnist}


def ended_well(answers: list[dict[str, Any]]) -> None:
    assert [(answer["code"], answer["stderr"]) for answer in answers] == [(0, "")] * len(answers)


def _is_whole(path: Path) -> bool:
    """True if a cache file can be read by its own key."""
    key = json.loads(decode(path.read_bytes())[1]["cnnbench cache entry"])["key"]
    return read_entry(path, key, pytest.fail) is not None


def engine(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())["engine"]
    return found


@pytest.mark.slow
def test_two_concurrent_runs_give_the_same_numbers(
    server: Server, task: dict[str, Any], tmp_path: Path
) -> None:
    """They fill a cache and a results folder together; a third run finds everything cached."""
    ended_well(server.together([task, task]))
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        assert _is_whole(path)
    assert not list((tmp_path / "cache").rglob("*.partial"))
    ended_well(server.together([task]))
    runs = sorted((tmp_path / "results" / "tiny").iterdir(), key=lambda run: run.stat().st_ctime)
    assert [check_run(run) for run in runs] == [[], [], []]
    first, *others = map(numbers, runs)
    assert len(first["epochs"]) == 2
    assert others == [first, first]
    assert engine(runs[-1])["compile_cache"] == "warm"
    record = json.loads((runs[-1] / "run.json").read_text())
    assert record["dataset"]["source"] == f"IDX files in {tmp_path / 'sets'}"


WAITING = "Waiting for another process to prepare 'mnist'.\n"


def test_concurrent_downloads_of_a_dataset(
    server: Server, task: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = tmp_path / "sets"
    handler = functools.partial(_Quiet, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as here:
        thread = threading.Thread(target=here.serve_forever, args=(0.02,))
        thread.start()
        prepare = task | {
            "args": ["data", "prepare", "mnist", "--data-dir", "fetched"],
            "mnist": [str(served), f"http://127.0.0.1:{here.server_port}"],
        }
        try:
            answers = server.together([prepare, prepare])
        finally:
            here.shutdown()
            thread.join()
    assert [answer["code"] for answer in answers] == [0, 0], answers
    texts = [answer["stderr"].replace(WAITING, "") for answer in answers]
    downloads, nothing = sorted(texts, reverse=True)  # the other process waits or comes later
    assert re.fullmatch(
        r"Downloading 4 files of 'mnist' \([^)]*\) to fetched/downloads\.\n", downloads
    )
    assert nothing == ""
    (decoded,) = (tmp_path / "cache" / "datasets").glob("*.safetensors")
    assert _is_whole(decoded)
    fetched = [p.read_bytes() for p in (tmp_path / "fetched").rglob("*.gz")]
    assert sorted(fetched) == sorted((served / name).read_bytes() for name in FILENAMES)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_run_is_locked_before_others_can_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise another process with --needed would treat it as killed, and resume it."""

    locked: list[bool] = []

    def look(folder: RunFolder, _record: object) -> None:
        assert not (folder.path / "run.json").exists()
        locked.append(is_held(folder.path))
        raise StoreError("seen enough")

    (tmp_path / "tiny.yaml").write_text(SPEC.replace("mnist", "mnist_5k"))
    monkeypatch.setattr(RunFolder, "write_record", look)
    request = Request(tmp_path / "tiny.yaml", results_dir=tmp_path)
    with pytest.raises(StoreError, match=r"^seen enough$"):
        run_experiment(request, Silent(Console()))
    assert locked == [True]


# Compiled programs.


@pytest.mark.slow
def test_a_damaged_program_is_reported_once_and_recompiled(
    server: Server, task: dict[str, Any], tmp_path: Path
) -> None:
    ended_well(server.together([task]))
    kept = sorted((tmp_path / "cache" / "programs").iterdir())
    assert len(kept) > 3
    for path in kept:
        path.write_bytes(path.read_bytes()[:-1])
    (again,) = server.together([task])
    assert again["code"] == 0
    (line,) = again["stderr"].splitlines()
    assert line.startswith(str(tmp_path / "cache" / "programs" / "jit_"))
    assert line.endswith(
        ".safetensors: the SHA-256 does not match; ignoring this cache file, it will be recreated."
    )
    for path in kept:
        assert _is_whole(path)


def test_an_unwritable_cache_is_reported(
    server: Server, task: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    (answer,) = server.together([task | {"cache": str(tmp_path / "file" / "cache")}])
    assert answer["code"] == 0
    assert answer["stderr"].splitlines()[-1] == (
        f"{tmp_path}/file/cache/programs: cannot be created (Not a directory), so programs are"
        " recompiled each time; set CNNBENCH_CACHE_DIR to a writable folder."
    )


def test_a_program_under_another_key_is_not_run(tmp_path: Path) -> None:
    """A renamed file is recompiled, not trusted by its name."""
    notes: list[str] = []
    files = ProgramFiles(tmp_path, notes.append)
    files.put("jit_step-1", b"one")
    assert files.get("jit_step-1") == b"one"
    (tmp_path / "jit_step-1.safetensors").rename(tmp_path / "jit_step-2.safetensors")
    assert files.get("jit_step-2") is None
    assert notes == [
        f"{tmp_path}/jit_step-2.safetensors: contains 'jit_step-1', not 'jit_step-2'; ignoring"
        " this cache file, it will be recreated."
    ]
