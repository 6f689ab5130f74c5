"""Benchmark of training on a GPU within a time budget, run by `benchmarks/gpu.sh`.

Losses and gradients on the GPU are compared with a CPU's first; then epochs are timed: ours, and
PyTorch eager, with CUDA graphs, and compiled. Variants of one race are interleaved. JAX and PyTorch
each have their own process (`gpu_worker`). The most important measurements come first, and results
are written after every step, so that an interrupted benchmark leaves complete files.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.gpu_worker import CHECKED, TrainingSetup
from cnnbench.bench.measurements import OWN, ratio, take_turns
from cnnbench.bench.worker_process import BenchVariant, LostError, RefusedError, Worker, closing_all
from cnnbench.statistics.estimates import mean_interval
from cnnbench.system.files import write_atomic

ROOT = Path(__file__).parent.parent
NETWORKS = ("standard", "resnet20", "vit_tiny", "autoencoder", "modified")
LAYOUTS = ("nchw", "channels_last")
START_LIMIT_S = 150.0  # timeout for compiling one variant
CHECK_BATCH = 100  # images, also for a CPU with few cores
TURN_S = 0.3  # minimum seconds of training per turn, at least one epoch
RACE_S = 6.0  # maximum seconds of all turns
LEAST_S = 8.0  # remaining seconds needed to start another step
FEWEST_ROUNDS, MOST_ROUNDS = 3, 7
# Largest relative difference from a CPU in float32: absolute, or as a multiple of the CPU's own
# bfloat16 error, which depends on how many maxima and signs change. TF32 has 3 more bits.
GIVEN = {"loss": 1e-4, "gradient": 1e-3}
TIMES = {"float32": 1.0, "bfloat16": 2.0}


@dataclass(frozen=True, slots=True)
class Race:
    """Variants measured in turn.

    Args:
      network: the network that they train.
      precision: precision of the computations.
      seeds: number of networks that each variant trains.
      variants: the variants; ours first.
    """

    network: str
    precision: str
    seeds: int
    variants: tuple[str, ...]


@dataclass(slots=True)
class VariantState:
    """Measurements of a variant in a race."""

    training: TrainingSetup
    outcome: str = "waiting"
    reason: str = ""
    prepare_s: float = math.nan
    compile_s: float = math.nan
    memory_mb: float = math.nan
    epoch_steps: int = 0
    turn_steps: int = 0
    epoch_s: list[float] = field(default_factory=list)  # by round
    first_loss: float = math.nan  # mean over the first epoch except for the first 3 steps
    steps: int = 0
    loss: float = math.nan


def races(networks: Sequence[str], seeds: int) -> Iterator[Race]:
    """All races, the most important first."""
    eager = tuple(f"torch-eager-{layout}" for layout in LAYOUTS)
    graphs = tuple(f"torch-graphs-{layout}" for layout in LAYOUTS)
    compiled = ("torch-compile-channels_last", "torch-compile-graphs-channels_last")
    together = ("torch-vmap", "torch-vmap-graphs")
    order = (
        ("float32", 1, (*eager, *graphs, *compiled)),
        ("float32", seeds, (*graphs, *together)),
        ("bfloat16", 1, (*eager, *graphs, *compiled)),
        ("bfloat16", seeds, (*graphs, *together)),
        ("float32", seeds, eager),
    )
    for precision, number, rivals in order:
        for network in networks:
            yield Race(network, precision, number, (OWN, *rivals))


def generated(count: int, seed: int = 0) -> tuple[Any, Any]:
    """Learnable images of MNIST's size: a smooth pattern for each class, with noise.

    No pixel is exactly zero, where rounding errors would decide the side of a relu's kink.

    Returns:
      uint8 images, (count, 28, 28, 1), and labels, (count,).
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count).astype(np.int32)
    coarse = rng.uniform(40, 200, (10, 7, 7))
    patterns = coarse.repeat(4, axis=1).repeat(4, axis=2)
    noise = rng.normal(0, 40, (count, 28, 28)).astype(np.float32)
    images = (patterns[labels].astype(np.float32) + noise).clip(1, 255).astype(np.uint8)
    return images[..., None], labels


class Session:
    """The two processes, the time budget, and the results.

    Args:
      folder: folder shared by the processes.
      output: folder of the results.
      arguments: the command line.
      workers: list that receives every started process, for cleanup.
    """

    def __init__(
        self, folder: Path, output: Path, arguments: argparse.Namespace, workers: list[Worker]
    ) -> None:
        self._folder, self._workers, self._arguments = folder, workers, arguments
        self._began = time.monotonic()
        self._started_at = datetime.now(UTC)
        self._processes: dict[str, Worker] = {}
        self._ready: dict[str, VariantState] = {}
        self._dead: dict[str, str] = {}
        self._file = output / f"gpu-{self._started_at:%Y%m%dT%H%M%SZ}.json"
        self.found: dict[str, Any] = {
            "started_at": self._started_at.isoformat(),
            "finished": False,
            "settings": {key: str(value) for key, value in vars(arguments).items()},
            "facts": {},
            "checks": [],
            "races": [],
            "run": None,
            "skipped": [],
        }

    @property
    def left(self) -> float:
        """Seconds left in the budget."""
        return float(self._arguments.budget - (time.monotonic() - self._began))

    def tell(self, text: str) -> None:
        """Report progress."""
        print(f"{time.monotonic() - self._began:6.1f} s  {text}", file=sys.stderr, flush=True)  # noqa: T201

    def write(self) -> None:
        """Write the results so far, each file atomically."""
        text = json.dumps(_finite(self.found), indent=1) + "\n"
        write_atomic(self._file, text.encode())
        write_atomic(self._file.with_suffix(".md"), markdown(self.found).encode())

    def ask(self, family: str, do: str, limit_s: float = START_LIMIT_S, **request: Any) -> Any:
        """Send a request to a process, starting it if necessary.

        Raises:
          RefusedError: the process does not support the request.
          LostError: the process died or timed out; the next request restarts it.
        """
        if family in self._dead:
            raise RefusedError(self._dead[family])
        if family not in self._processes:
            self._begin(family)
        try:
            return self._processes[family].ask(do, self._limit(limit_s), **request)
        except LostError:
            self._processes.pop(family).close()
            others = {k: e for k, e in self._ready.items() if _family(e.training) != family}
            self._ready = others
            raise

    def _limit(self, seconds: float) -> float:
        """Timeout of a request, within the budget."""
        return max(1.0, min(seconds, self.left))

    def _begin(self, family: str) -> None:
        """Start a process; a process that fails its first request is not restarted."""
        process = BenchVariant(family, family, f"benchmarks.gpu_{family.partition('-')[0]}")
        worker = Worker(process, self._folder, program="benchmarks.gpu_worker")
        self._workers.append(worker)
        self._processes[family] = worker
        options = {} if family == "jax" else {"tf32": self._tf32()}
        try:
            self.found["facts"][family] = worker.ask("facts", self._limit(START_LIMIT_S), **options)
        except LostError as error:
            self._dead[family] = f"is not usable: {error}"
            raise

    def _tf32(self) -> bool:
        """True if JAX rounds float32 products to TF32; PyTorch is configured accordingly."""
        return self.found["facts"]["jax"]["matmul_precision"] not in {"highest", "float32"}

    def prepare(self) -> None:
        """Create images and initial weights, and identify the machine."""
        images, labels = generated(self._arguments.images)
        np.save(self._folder / "images.npy", images)
        np.save(self._folder / "labels.npy", labels)
        for network in self._arguments.networks:
            self.ask("jax", "weights", network=network, seeds=self._arguments.seeds)
        self.write()

    def check(self, name: str) -> None:
        """Compare losses and gradients on the GPU with a CPU's."""
        network = CHECKED.get(name, name)
        self.tell(f"{Path(network).name}: losses and gradients vs. a CPU's")
        batch = min(CHECK_BATCH, self._arguments.batch)
        training = TrainingSetup(network, OWN, "float32", 1, batch)
        record: dict[str, Any] = {"network": Path(network).name}
        try:
            record |= self.ask("jax", "check", training=asdict(training))
            cpu = record["differences"].pop("cpu")
            for kind, own in record["differences"].items():
                factor = TIMES.get(kind)
                own["allowed"] = {
                    name: given if factor is None else max(given, factor * cpu[name])
                    for name, given in GIVEN.items()
                }
                own["holds"] = all(own[name] <= most for name, most in own["allowed"].items())
        except (RefusedError, LostError) as error:
            record["failed"] = str(error)
        self.found["checks"].append(record)
        self.write()

    def race(self, race: Race) -> None:
        """Start the variants that are not running yet, then measure all in turn."""
        network = Path(race.network).name
        title = f"{network}, {race.precision}, seeds: {race.seeds}"
        record: dict[str, Any] = {**asdict(race), "network": network, "entries": []}
        entries = [self._enter(race, variant) for variant in race.variants]
        self.found["races"].append(record)
        for entry in entries:
            self._start(entry, title)
            record["entries"] = [_record(e, entries[0]) for e in entries]
            self.write()
        spent, number = 0.0, 0
        while number < MOST_ROUNDS and (number < FEWEST_ROUNDS or spent < RACE_S):
            running = {e.training.key: e for e in entries if e.outcome == "measured"}
            if not running or self.left < LEAST_S / 2:
                break
            began = time.monotonic()
            for key in take_turns(list(running), number):
                self._turn(running[key])
            spent, number = spent + time.monotonic() - began, number + 1
            record["entries"] = [_record(e, entries[0]) for e in entries]
            self.write()
        self.tell(f"{title}: {number} rounds of {len(entries)} variants")

    def _enter(self, race: Race, variant: str) -> VariantState:
        arguments = race.network, variant, race.precision, race.seeds, self._arguments.batch
        return VariantState(TrainingSetup(*arguments))

    def _start(self, entry: VariantState, title: str) -> None:
        """Compile a variant, unless an earlier race did, and estimate its speed."""
        own = entry.training
        family = _family(own)
        if family != "jax" and not self._arguments.torch:
            entry.outcome, entry.reason = "skipped", "PyTorch is not installed"
            return
        if self.left < LEAST_S:
            entry.outcome, entry.reason = "skipped", "out of time"
            return
        known = self._ready.get(own.key)
        try:
            if known is None:
                self.tell(f"{title}: starting {own.variant}")
                answer = self.ask(family, "start", training=asdict(own))
                entry.prepare_s, entry.compile_s = answer["prepare_s"], answer["compile_s"]
                entry.memory_mb, entry.epoch_steps = answer["memory_mb"], answer["epoch_steps"]
                first = answer["first_epoch"]
                entry.first_loss, entry.steps = first["loss"], first["steps"]
                step_s = first["seconds"] / first["steps"]
                entry.turn_steps = self._turn_steps(entry, step_s, whole=answer["whole_epochs"])
                self._ready[own.key] = entry
            else:
                entry.prepare_s, entry.compile_s = known.prepare_s, known.compile_s
                entry.memory_mb, entry.epoch_steps = known.memory_mb, known.epoch_steps
                entry.turn_steps = known.turn_steps
                entry.first_loss = known.first_loss
            entry.outcome = "measured"
        except (RefusedError, LostError) as error:
            entry.outcome, entry.reason = "failed", str(error)
            self.tell(f"{title}: {own.variant}: {error}")

    def _turn_steps(self, entry: VariantState, step_s: float, *, whole: bool) -> int:
        """Steps per turn: at least an epoch for ours, at least `TURN_S` for the others."""
        wanted = max(1, math.ceil(float(self._arguments.turn) / step_s))
        if not whole:
            return min(wanted, 4 * entry.epoch_steps)
        return entry.epoch_steps * max(1, round(wanted / entry.epoch_steps))

    def _train(self, entry: VariantState, steps: int) -> Any:
        own = entry.training
        answer = self.ask(_family(own), "train", training=asdict(own), steps=steps)
        entry.steps += steps
        entry.loss = answer["loss"]
        return answer

    def _turn(self, entry: VariantState) -> None:
        """One turn; a process that died in another variant's turn has lost this variant too."""
        if entry.outcome != "measured":
            return
        if entry.training.key not in self._ready:
            entry.outcome, entry.reason = "failed", "its process died in another variant's turn"
            return
        try:
            seconds = self._train(entry, entry.turn_steps)["seconds"]
        except (RefusedError, LostError) as error:
            entry.outcome, entry.reason = "failed", str(error)
        else:
            entry.epoch_s.append(seconds / entry.turn_steps * entry.epoch_steps)

    def run(self, network: str) -> None:
        """Train as `cnnbench run` does, with evaluation and groups of seeds."""
        self.tell(f"{Path(network).name}: a complete run")
        seeds = self._arguments.seeds
        own = asdict(TrainingSetup(network, OWN, "float32", seeds, self._arguments.batch))
        try:
            record = self.ask("jax", "run", training=own, epochs=2)
        except (RefusedError, LostError) as error:
            record = {"failed": str(error)}
        self.found["run"] = {"network": Path(network).name, "seeds": seeds, **record}
        self.write()

    def skip(self, what: str) -> None:
        """Record a measurement that was skipped for lack of time."""
        self.found["skipped"].append(what)
        self.write()


def _family(training: TrainingSetup) -> str:
    """The process that trains a variant; PyTorch's compiler has its own, in case it crashes."""
    if training.variant == OWN:
        return "jax"
    return "torch-compile" if "compile" in training.variant else "torch"


def _record(entry: VariantState, own: VariantState) -> dict[str, Any]:
    """Measurements of a variant with derived values."""
    fields = asdict(entry)
    fields["variant"] = fields.pop("training")["variant"]
    interval = mean_interval(entry.epoch_s) if len(entry.epoch_s) > 1 else None
    fields["median_epoch_s"] = median(entry.epoch_s) if entry.epoch_s else None
    fields["epoch_s_interval"] = [interval.low, interval.high] if interval else None
    together = min(len(entry.epoch_s), len(own.epoch_s))
    if entry is not own and together > 1:
        found = ratio(entry.epoch_s[:together], own.epoch_s[:together])
        fields["ratio"] = {
            "value": found.value,
            "interval": [found.interval.low, found.interval.high],
        }
    return fields


def _finite(value: Any) -> Any:
    """The value, or None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def markdown(found: dict[str, Any]) -> str:
    """The results as Markdown tables."""
    state = "" if found["finished"] else "This benchmark was interrupted.\n\n"
    parts = [f"# Training on an accelerator\n\n{state}{_facts_text(found)}\n", _checks(found)]
    for race in found["races"]:
        parts.append(_race_table(race))
    if found["run"]:
        parts.append(_run_text(found["run"]))
    if found["skipped"]:
        parts.append(f"Skipped for lack of time: {'; '.join(found['skipped'])}.\n")
    return "\n".join(parts)


def _facts_text(found: dict[str, Any]) -> str:
    named = {**found["facts"].get("jax", {})}
    named |= {f"torch_{key}": value for key, value in found["facts"].get("torch", {}).items()}
    return "; ".join(f"{key} {value}" for key, value in named.items()) + f"; {found['started_at']}."


def _checks(found: dict[str, Any]) -> str:
    rows = ["| Network | Precision | Loss error | Gradient error | Largest in | Tolerance | |"]
    rows.append("|---|---|---:|---:|---|---:|---|")
    for check in found["checks"]:
        if "failed" in check:
            rows.append(f"| {check['network']} | | | | {check['failed']} | | failed |")
        for kind, own in check.get("differences", {}).items():
            allowed = own["allowed"]
            holds = "holds" if own["holds"] else "FAILED"
            rows.append(
                f"| {check['network']} | {kind} | {own['loss']:.1e} | {own['gradient']:.1e} |"
                f" {own['worst']} | {allowed['loss']:.1e}, {allowed['gradient']:.1e} | {holds} |"
            )
    note = (
        "Relative to this machine's CPU in float32: losses of the first 3 steps, gradients of"
        " the first (2-norms). Tolerance in float32: the CPU's own error in bfloat16; in bfloat16:"
        " twice that."
    )
    return "\n".join(["## Correctness\n", *rows, "", f"{note}\n"])


def _race_table(race: dict[str, Any]) -> str:
    title = f"## {race['network']}, {race['precision']}, {race['seeds']} seed(s)\n"
    rows = ["| Variant | s/epoch | 95% CI | vs. ours | Compile s | Memory MB | Loss, epoch 1 |"]
    rows.append("|---|---:|---:|---:|---:|---:|---:|")
    for entry in race["entries"]:
        if entry["median_epoch_s"] is None:
            rows.append(f"| {entry['variant']} | {entry['outcome']}: {entry['reason']} | | | | | |")
            continue
        interval, over = entry["epoch_s_interval"], entry.get("ratio")
        spread = f"{interval[0]:.4f}-{interval[1]:.4f}" if interval else ""
        times = "{:.2f} ({:.2f}-{:.2f})".format(over["value"], *over["interval"]) if over else ""
        memory = entry["memory_mb"]
        rows.append(
            f"| {entry['variant']} | {entry['median_epoch_s']:.4f} | {spread} | {times} |"
            f" {entry['compile_s']:.1f} | {'' if math.isnan(memory) else f'{memory:,.0f}'} |"
            f" {entry['first_loss']:.5f} |"
        )
    rounds = max((len(entry["epoch_s"]) for entry in race["entries"]), default=0)
    note = f"Median of {rounds} interleaved rounds, CI of the mean; an epoch of all seeds.\n"
    return "\n".join([title, *rows, "", note])


def _run_text(run: dict[str, Any]) -> str:
    title = f"## A complete run: {run['network']}, {run['seeds']} seeds\n\n"
    if "failed" in run:
        return f"{title}{run['failed']}\n"
    last = run["epochs"][-1]
    seconds = f"{run['seconds']:.1f} s with compilation; {last['train_s']:.4f} s per epoch and seed"
    return f"{title}{seconds}, {run['seeds_at_once']} seeds in parallel.\n"


def arguments_of(words: Sequence[str]) -> argparse.Namespace:
    """Parser of the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__)
    parser.add_argument("--budget", type=float, default=450, help="total time budget in seconds")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--images", type=int, default=70_000, help="5/7 are for training")
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=10, help="seeds trained in parallel")
    parser.add_argument("--turn", type=float, default=TURN_S, help="minimum seconds per turn")
    parser.add_argument("--networks", type=lambda text: text.split(","), default=list(NETWORKS))
    parser.add_argument("--cpu", action="store_true", help="continue if JAX finds no GPU")
    parser.add_argument("--no-torch", dest="torch", action="store_false")
    return parser.parse_args(words)


def main(words: Sequence[str]) -> int:
    """Run the checks, the races and a complete run within the time budget.

    Returns:
      0, 1 if a check failed, or 3 if there is no GPU.
    """
    arguments = arguments_of(words)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cnnbench-") as name, closing_all() as workers:
        session = Session(Path(name), arguments.output, arguments, workers)
        try:
            session.prepare()
        except (RefusedError, LostError) as error:
            session.tell(f"JAX is not usable: {error}")
            return 3
        kind = session.found["facts"]["jax"]["device_kind"]
        session.tell(f"JAX trains on: {session.found['facts']['jax']['device']} ({kind})")
        if kind == "cpu" and not arguments.cpu:
            session.tell("JAX finds no GPU: install jax[cuda12] or jax[cuda13], or add --cpu")
            return 3
        work(session, arguments)
        session.found["finished"] = True
        session.write()
    return 0 if all(map(_holds, session.found["checks"])) else 1


def _holds(check: dict[str, Any]) -> bool:
    return all(own["holds"] for own in check.get("differences", {"": {"holds": False}}).values())


def work(session: Session, arguments: argparse.Namespace) -> None:
    """Run everything in order, and record the steps that do not fit the budget."""
    for network in arguments.networks:
        if session.left < LEAST_S:
            session.skip(f"check of {network}")
        else:
            session.check(network)
    plan = list(races(arguments.networks, arguments.seeds))
    first = 2 * len(arguments.networks)  # races before the complete run
    for number, race in enumerate(plan):
        if number == first and session.left >= LEAST_S:
            session.run(arguments.networks[0])
        if session.left < LEAST_S:
            name, rivals = Path(race.network).name, ", ".join(race.variants)
            session.skip(f"{name}, {race.precision}, {race.seeds} seeds: {rivals}")
        else:
            session.race(race)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
