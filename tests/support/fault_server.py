"""Fault injection: runs cnnbench commands in forked processes and breaks their file operations.

A line on standard input is a list of tasks to run concurrently, each in its own process, such as
`[{"args": ["run", "a.yaml"], "kill": 12}]`:

- `kill`: kill the process (SIGKILL) at this call of the file layer, after half of the data is
  written.
- `fail`: `[call, errno]`; this call fails, after half of the data is written.
- `signals`: `[[call, signal], ...]`; send the signals at these calls.
- `kill_after`: seconds until SIGKILL.
- `path`, `memory`: a folder of modules, and the number of free bytes.
- `cache`: another cache folder.
- `mnist`: `[folder, address]`; register the files of the folder, served at the address.

The answer is a list of `{"code": ..., "stderr": ..., "calls": [...]}` with the calls made.
Everything is imported only once.
"""

import json
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cnnbench.cli.commands.compare  # forking is faster than importing
import cnnbench.cli.commands.run  # noqa: F401 - imported for the same reason
from cnnbench.cli import app
from cnnbench.system import devices, files
from cnnbench.training import trainer
from tests.support.samples import COST

BROKEN = ("open", "write", "fsync", "replace", "ftruncate", "unlink")


class Breaker:
    """Count the calls of the file layer, and break one of them."""

    def __init__(self, task: dict[str, Any], log: Path) -> None:
        self.kill, self.fail = task.get("kill"), task.get("fail")
        self.signals, self.log, self.count = task.get("signals", []), log, 0
        self.names: dict[int, str] = {}  # names of open files

    def wrap(self, name: str):
        call = getattr(os, name)

        def broken(*args, **kwargs):
            self.step(name, args)
            result = call(*args, **kwargs)
            if name == "open":
                self.names[result] = Path(args[0]).name
            return result

        return broken

    def step(self, name: str, args: Any) -> None:
        self.count += 1
        what = self.names.get(args[0], "") if isinstance(args[0], int) else Path(args[0]).name
        with self.log.open("a") as file:
            file.write(f"{name} {what}\n")
        for call, number in self.signals:
            if self.count == call:
                os.kill(os.getpid(), number)
        if self.count == self.kill:
            if name == "write":
                os.write(args[0], bytes(args[1])[: len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fail and self.count == self.fail[0]:
            if name == "write":
                os.write(args[0], bytes(args[1])[: len(args[1]) // 2])
            raise OSError(self.fail[1], os.strerror(self.fail[1]))

    def install(self) -> None:
        known = {name: self.wrap(name) for name in BROKEN}
        vars(files)["os"] = SimpleNamespace(**{**vars(os), **known})


def register_mnist(folder: str, address: str) -> None:
    from cnnbench.data.published import downloads
    from tests.support.tinysets import checksum_text

    text = checksum_text(Path(folder), address)
    vars(downloads)["checksum_text"] = lambda _: text


def child(task: dict[str, Any], folder: Path) -> None:
    """Run a task in the child process; never returns."""
    with (folder / "stderr").open("w") as err, Path(os.devnull).open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
    measuring = sys.modules.get("coverage")
    if measuring and (task.get("kill") or task.get("kill_after")):
        measuring.Coverage.current().stop()  # its data would be lost with the process
    if task.get("cwd"):
        os.chdir(task["cwd"])
    sys.path[:0] = [task["path"]] if "path" in task else []
    if "cache" in task:
        os.environ["CNNBENCH_CACHE_DIR"] = task["cache"]
    if "mnist" in task:
        register_mnist(*task["mnist"])
    if "memory" in task:
        vars(devices)["free_bytes"] = lambda: task["memory"]
    # Costs are irrelevant here, and measuring them takes longer than everything else.
    vars(trainer)["measure_cost"] = lambda *_: COST
    Breaker(task, folder / "calls").install()
    sys.argv = ["cnnbench", *task["args"]]
    code = 99
    try:
        app.main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001 - reported to the test
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def wait(pid: int, kill_after: float | None) -> int:
    """Exit status of a process, which is killed if necessary."""
    start = time.monotonic()
    while kill_after is not None:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() - start >= kill_after:
            os.kill(pid, signal.SIGKILL)
            break
        time.sleep(0.001)
    return os.waitpid(pid, 0)[1]


def run(tasks: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Run tasks concurrently, each in its own process and folder."""
    started = []
    for number, task in enumerate(tasks):
        own = folder / str(number)
        own.mkdir()
        (own / "stderr").touch()  # in case the child is killed before it opens the file
        pid = os.fork()
        if not pid:
            child(task, own)
        started.append((task, own, pid))
    return [answer(own, wait(pid, task.get("kill_after"))) for task, own, pid in started]


def answer(folder: Path, status: int) -> dict[str, Any]:
    log = folder / "calls"
    return {
        "code": os.waitstatus_to_exitcode(status),
        "stderr": (folder / "stderr").read_text(errors="replace"),
        "calls": log.read_text().splitlines() if log.exists() else [],
    }


def main() -> None:
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as name:
            answers = run(json.loads(line), Path(name))
        print(json.dumps(answers), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
