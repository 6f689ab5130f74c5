"""Worker processes from the parent's side: start, requests with timeouts, guaranteed cleanup."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnbench.system.settings import VARIABLES

FRAMEWORKS = "cnnbench.bench.frameworks"
END_S = 5.0  # seconds for a worker to exit


@dataclass(frozen=True, slots=True)
class BenchVariant:
    """A variant to measure.

    Args:
      name: name of the variant for its `make_trainer`.
      family: its framework.
      module: module with its `make_trainer`.
      environment: variables of its process, in addition to the caller's.
      lacking: reason to skip it on this machine, if something is missing.
    """

    name: str
    family: str
    module: str = FRAMEWORKS
    environment: Mapping[str, str] = field(default_factory=dict)
    lacking: str = ""


class RefusedError(Exception):
    """A worker does not support the request."""


class LostError(Exception):
    """A worker died or timed out."""


class Worker:
    """A process that trains one variant.

    Args:
      variant: the variant.
      folder: folder shared by all variants, also for caches and error output.
      data_dir: TFDS data directory.
      program: module that serves the requests.
    """

    def __init__(
        self,
        variant: BenchVariant,
        folder: Path,
        data_dir: Path | None = None,
        program: str = "cnnbench.bench.worker",
    ) -> None:
        self.variant = variant.name
        self._errors = folder / f"{variant.name}.stderr"
        # -P: without it, a torch.py in the current folder would be imported.
        module = [sys.executable, "-P", "-m", program]
        rest = [str(data_dir)] if data_dir else []
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [*module, str(folder), self.variant, variant.module, *rest],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_environment(folder / "caches" / self.variant) | dict(variant.environment),
                start_new_session=True,  # so that its children can be killed with it
            )

    def ask(self, do: str, limit_s: float, **request: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Args:
          do: name of the request.
          limit_s: timeout in seconds.
          **request: further fields of the request.

        Raises:
          RefusedError: the variant does not support the request.
          LostError: the process died or timed out.
        """
        line = json.dumps({"do": do, **request}) + "\n"
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the process died; `_read_line` explains why
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
                raise LostError(f"'{do}' timed out after {limit_s:.0f} s")
            part = os.read(stream, 65_536)
            if not part:
                raise LostError(self._death())
            received += part
        return received

    def _death(self) -> str:
        """Reason why the process ended: signal or exit code, and its last line of output."""
        code = self._process.wait(END_S)
        if code < 0:
            return f"its process was killed by {signal.Signals(-code).name}"
        text = self._errors.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return f"its process exited with code {code}" + (f": {lines[-1]}" if lines else "")

    def close(self) -> None:
        """Kill the process and its children."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(END_S)


def _environment(caches: Path) -> dict[str, str]:
    """The caller's environment with default JAX settings and empty caches.

    Compile times are therefore those of a first run.
    """
    caches.mkdir(parents=True, exist_ok=True)
    dropped = {*VARIABLES, "JAX_COMPILATION_CACHE_DIR"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    own = {name: str(caches) for name in ("CNNBENCH_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")}
    return kept | own


@contextlib.contextmanager
def closing_all() -> Iterator[list[Worker]]:
    """A list of workers that are all closed on exit."""
    workers: list[Worker] = []
    try:
        yield workers
    finally:
        for worker in workers:
            worker.close()
