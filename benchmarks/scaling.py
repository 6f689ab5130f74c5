"""Time of a training step on 1, 2 and more devices of this machine, and its parts.

    python -m benchmarks.scaling [FOLDER]

Each row is a training by `cnnbench run`, restricted to some cores, in one process or in several.
The parts are measured apart: the same step with the share of one device on one core, and the sum of
arrays as large as the gradients over all processes. More processes than cores are simulated: they
share cores, so their times say nothing about more hardware.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

BATCH, IMAGES, EPOCHS, SUMS = 96, 960, 4, 30
NETWORK = "standard"


@dataclass(frozen=True)
class StepTimes:
    """A measurement.

    Args:
      processes: processes that train together.
      cores: cores that they may use.
      simulated: True if several processes share a core.
      step_ms: median time of a training step.
      compute_ms: the step with the images of one device, on one core.
      sum_ms: median time to sum the gradients over the processes; None for one process.
    """

    processes: int
    cores: int
    simulated: bool
    step_ms: float
    compute_ms: float
    sum_ms: float | None


def step_ms(processes: int, cores: int, batch: int) -> float:
    """Median time of a step over the epochs after the first."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", NETWORK, "--dataset", "mnist_5k", "--seeds", "1", "--engine", "direct"]
        words += ["--epochs", str(EPOCHS), f"train.batch_size={batch}", "--quiet"]
        words += [f"dataset.splits.train={IMAGES}", "--results-dir", folder]
        words += ["--processes", str(processes)]
        command = [sys.executable, "-m", "cnnbench", *words]
        on = ["taskset", "-c", f"0-{cores - 1}"]
        subprocess.run([*on, *command], check=True, capture_output=True)
        (file,) = Path(folder).glob("*/*/epochs.jsonl")
        epochs = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    seconds: float = statistics.median(each["train_s"] for each in epochs[1:])
    return seconds * 1000 / (IMAGES // batch)


def sum_ms(processes: int, cores: int, values: int) -> float:
    """Median time to sum arrays of float32 over processes, with gloo."""
    port = 20_000 + os.getpid() % 20_000
    command = [sys.executable, "-m", "benchmarks.scaling", "--sum"]
    tasks = []
    for place in range(processes):
        words = map(str, (place, processes, port, values, place % cores))
        tasks.append(subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True))
    said = [task.communicate()[0] for task in tasks]
    return float(said[0].split()[-1])


def sum_here(place: int, processes: int, port: int, values: int, core: int) -> None:
    """One of the processes of `sum_ms`."""
    os.sched_setaffinity(0, [core])
    import jax
    import jax.numpy as jnp
    from jax.sharding import AxisType, PartitionSpec

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", processes, place)
    mesh = jax.make_mesh((processes,), ("batch",), axis_types=(AxisType.Auto,))

    def total(x: jax.Array) -> jax.Array:
        found: jax.Array = jax.lax.psum(x, "batch")
        return found

    spec = PartitionSpec()
    shared = jax.shard_map(total, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    function, given = jax.jit(shared), jnp.ones(values, jnp.float32)
    times = []
    for _ in range(SUMS + 3):
        start = time.perf_counter()
        jax.block_until_ready(function(given))
        times.append(time.perf_counter() - start)
    print(statistics.median(times[3:]) * 1000)  # noqa: T201


def measure(values: int) -> list[StepTimes]:
    """All rows that fit this machine, and one that is simulated."""
    available = len(os.sched_getaffinity(0))
    plan = [(1, 1), *([(1, 2), (2, 2)] if available > 1 else []), (4, available)]
    rows = []
    for processes, cores in plan:
        devices = max(processes, cores)
        sums = sum_ms(processes, cores, values) if processes > 1 else None
        whole, own = step_ms(processes, cores, BATCH), step_ms(1, 1, BATCH // devices)
        rows.append(StepTimes(processes, cores, processes > cores, whole, own, sums))
        print(rows[-1], flush=True)  # noqa: T201
    return rows


def table(rows: list[StepTimes]) -> str:
    """Markdown."""
    lines = ["| Processes | Cores | Step | One device's share alone | Sum of gradients |"]
    lines.append("|---|---|---|---|---|")
    for row in rows:
        sums = "" if row.sum_ms is None else f"{row.sum_ms:.1f} ms"
        note = " (shared: simulated)" if row.simulated else ""
        cells = f"{row.processes} | {row.cores}{note} | {row.step_ms:.1f} ms"
        lines.append(f"| {cells} | {row.compute_ms:.1f} ms | {sums} |")
    return "\n".join(lines) + "\n"


def draw(rows: list[StepTimes], file: Path) -> None:
    """A bar for each row: the step, with its parts beside it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    parts = {
        "step": [row.step_ms for row in rows],
        "share of one device": [row.compute_ms for row in rows],
        "sum of gradients": [row.sum_ms or 0.0 for row in rows],
    }
    for number, (name, values) in enumerate(parts.items()):
        axes.bar([place + 0.27 * (number - 1) for place in places], values, 0.27, label=name)
    names = [
        f"{row.processes} process{'es' if row.processes > 1 else ''}\n{row.cores} core"
        f"{'s' if row.cores > 1 else ''}{' (shared)' if row.simulated else ''}"
        for row in rows
    ]
    axes.set_xticks(list(places), names)
    axes.set_ylabel("time (ms)")
    axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.savefig(file, dpi=150)


def main(folder: Path) -> None:
    """Measure, and write JSON, Markdown and a figure."""
    folder.mkdir(parents=True, exist_ok=True)
    values = 160_362  # parameters of the network
    rows = measure(values)
    content = {"network": NETWORK, "batch": BATCH, "values": values}
    content["load"] = os.getloadavg()[0] / (os.cpu_count() or 1)
    text = json.dumps(content | {"rows": [asdict(row) for row in rows]}, indent=2)
    (folder / "scaling.json").write_text(text + "\n", encoding="utf-8")
    (folder / "scaling.md").write_text(table(rows), encoding="utf-8")
    draw(rows, folder / "scaling.png")


if __name__ == "__main__":
    if "--sum" in sys.argv:
        sum_here(*map(int, sys.argv[2:]))
    else:
        parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
        parser.add_argument("folder", nargs="?", type=Path, default="benchmarks/results/scaling")
        main(parser.parse_args().folder)
