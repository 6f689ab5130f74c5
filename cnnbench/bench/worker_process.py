"""Worker processes from the parent's side: started, asked with a time limit, ended for sure."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnbench.system.settings import VARIABLES

PEERS = "cnnbench.bench.frameworks"
END_S = 5.0  # seconds that a worker has to end by itself


@dataclass(frozen=True, slots=True)
class BenchVariant:
    """A variant that takes part.

    Args:
      variant: its name, as its `make_peer` knows it.
      family: its framework.
      module: where its `make_peer` is.
    """

    variant: str
    family: str
    module: str = PEERS


class RefusedError(Exception):
    """A worker says that it cannot do what it is asked for."""


class LostError(Exception):
    """A worker died, or did not answer in time."""


class Worker:
    """A process that trains one variant.

    Args:
      contestant: which variant.
      folder: what all variants share; its caches and its errors go there too.
      data_dir: where datasets outside the built-in table are described.
      program: the module that answers the requests.
    """

    def __init__(
        self,
        contestant: BenchVariant,
        folder: Path,
        data_dir: Path | None = None,
        program: str = "cnnbench.bench.worker",
    ) -> None:
        self.variant = contestant.variant
        self._errors = folder / f"{contestant.variant}.stderr"
        # Not the caller's folder first: a file of its own named torch.py would be imported.
        module = [sys.executable, "-P", "-m", program]
        rest = [str(data_dir)] if data_dir else []
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [*module, str(folder), self.variant, contestant.module, *rest],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_environment(folder / "caches" / self.variant),
                start_new_session=True,  # so that its own children can be ended with it
            )

    def ask(self, do: str, limit_s: float, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for the answer.

        Args:
          do: what to do.
          limit_s: seconds that it may take.
          **request: what else the worker needs to know.

        Raises:
          RefusedError: the variant cannot do it.
          LostError: the process died or took too long.
        """
        line = json.dumps({"do": do, **request}) + "\n"
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died; reading says why
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._read_line(limit_s, do))
        if "refused" in answer:
            raise RefusedError(answer["refused"])
        return answer

    def _read_line(self, limit_s: float, do: str) -> bytes:
        assert self._process.stdout is not None
        stream, deadline, received = self._process.stdout.fileno(), time.monotonic() + limit_s, b""
        while not received.endswith(b"\n"):
            left = max(0.0, deadline - time.monotonic())
            if not select.select([stream], [], [], left)[0]:
                raise LostError(f"'{do}' took longer than {limit_s:.0f} s")
            part = os.read(stream, 65_536)
            if not part:
                raise LostError(self._death())
            received += part
        return received

    def _death(self) -> str:
        """Why the process ended: how, and the last thing that it said."""
        code = self._process.wait(END_S)
        if code < 0:
            return f"its process was killed by {signal.Signals(-code).name}"
        text = self._errors.read_text(encoding="utf-8", errors="replace")
        said = [line.strip() for line in text.splitlines() if line.strip()]
        return f"its process ended with {code}" + (f": {said[-1]}" if said else "")

    def close(self) -> None:
        """Ends the process and its children."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(END_S)


def _environment(caches: Path) -> dict[str, str]:
    """The caller's, but with JAX's own settings in every framework that uses JAX.

    Caches are empty: compile times are those of a first time.
    """
    caches.mkdir(parents=True, exist_ok=True)
    dropped = {*VARIABLES, "JAX_COMPILATION_CACHE_DIR"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    own = {name: str(caches) for name in ("CNNBENCH_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")}
    return kept | own


@contextlib.contextmanager
def closing_all() -> Iterator[list[Worker]]:
    """A list whose workers are all ended in the end, whatever happens."""
    workers: list[Worker] = []
    try:
        yield workers
    finally:
        for worker in workers:
            worker.close()
