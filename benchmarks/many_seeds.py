"""Wall time of several seeds of two networks, compared with tuned PyTorch: `many_seeds --help`.

Ours is `cnnbench run A B --seeds N` in a new process with empty caches, as it comes and with
`--on local`. PyTorch has a process per core, each with one pinned thread, which trains its share of
the seeds one after another, tuned as in `cnnbench bench`. Its processes evaluate the network once
instead of after every epoch, and write nothing, so the ratio is a lower bound. Both times include
starting and compiling. All arrangements take turns; a ratio is that of the best of each side, and
those of PyTorch that are clearly slower than its best in the first round are dropped.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from cnnbench.bench import session
from cnnbench.bench.frameworks.interface import TorchSettings, settings_of
from cnnbench.bench.measurements import ratio, take_turns
from cnnbench.bench.report import ratio_with_interval
from cnnbench.bench.scheduler import BenchTask, write_task
from cnnbench.bench.tuning import torch_variants
from cnnbench.bench.worker_process import BenchVariant, Worker
from cnnbench.system.host import cores

ROOT = Path(__file__).parent.parent
NETWORKS = ("standard", "modified")
OURS: Mapping[str, tuple[str, ...]] = {"run": (), "run --on local": ("--on", "local")}
LIMIT_S = 3600.0  # for one request
DROPPED = 1.25  # times the best of PyTorch


def run_seconds(options: Sequence[str], seeds: int, epochs: int) -> float:
    """Seconds of `cnnbench run` with empty caches."""
    command = [sys.executable, "-m", "cnnbench", "run", *NETWORKS, "--dataset", "mnist_5k"]
    command += ["--seeds", str(seeds), "--epochs", str(epochs), "--quiet", *options]
    with tempfile.TemporaryDirectory() as folder:
        own = {"CNNBENCH_CACHE_DIR": f"{folder}/cache"}
        command += ["--results-dir", f"{folder}/results"]
        start = time.perf_counter()
        done = subprocess.DEVNULL
        subprocess.run(command, check=True, cwd=ROOT, env=os.environ | own, stdout=done)
        return time.perf_counter() - start


def shares(seeds: int, num_cores: int) -> list[int]:
    """Seeds of each core, as equal as possible.

    >>> shares(10, 4)
    [3, 3, 2, 2]
    """
    return [len(range(core, seeds, num_cores)) for core in range(num_cores)]


def torch_seconds(
    tasks: Sequence[BenchTask], variants: Sequence[BenchVariant], seeds: int, epochs: int
) -> float:
    """Seconds of a process per variant, which trains its share of the seeds of every task.

    Args:
      tasks: the networks.
      variants: the same arrangement for each core.
      seeds: number of seeds of each network.
      epochs: epochs of each seed.
    """
    with tempfile.TemporaryDirectory() as name:
        start = time.perf_counter()
        with ThreadPoolExecutor(len(variants)) as pool:
            running = [
                pool.submit(_train, tasks, variant, Path(name) / str(core), share * epochs)
                for core, (variant, share) in enumerate(
                    zip(variants, shares(seeds, len(variants)), strict=True)
                )
            ]
            for each in running:
                each.result()
        return time.perf_counter() - start


def _train(tasks: Sequence[BenchTask], variant: BenchVariant, folder: Path, epochs: int) -> None:
    for number, task in enumerate(tasks if epochs else ()):
        place = folder / str(number)
        place.mkdir(parents=True)
        write_task(place, task)
        worker = Worker(variant, place, task.data_dir)
        try:
            worker.ask("start", LIMIT_S)
            for _ in range(epochs):
                worker.ask("train", LIMIT_S, steps=len(task.train) // task.batch_size)
            worker.ask("finish", LIMIT_S)
        finally:
            worker.close()


def torch_arrangements(pattern: str) -> dict[str, list[BenchVariant]]:
    """Tuned variants of PyTorch whose names match, each for one thread on each core."""
    found: dict[str, list[BenchVariant]] = {}
    for cpu in cores():
        for variant in torch_variants((cpu,), os.environ, bfloat16=False):
            tuned = settings_of(variant.name) is not TorchSettings.DEFAULT
            if tuned and not variant.lacking and fnmatch(variant.name, pattern):
                found.setdefault(variant.name, []).append(variant)
    return found


def measure(
    arrangements: Mapping[str, Callable[[], float]], rounds: int, notify: Callable[[str], None]
) -> dict[str, list[float]]:
    """Seconds of every arrangement in each round, which take turns; without slow ones."""
    seconds: dict[str, list[float]] = {name: [] for name in arrangements}
    for number in range(rounds):
        for name in take_turns(tuple(seconds), number):
            seconds[name].append(arrangements[name]())
            notify(f"round {number + 1}: {name}: {seconds[name][-1]:.1f} s")
        if not number:
            seconds = fast_enough(seconds)
    return seconds


def fast_enough(seconds: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Ours, and the arrangements of PyTorch that may be its best.

    >>> sorted(fast_enough({"run": [3.0], "torch-a": [5.0], "torch-b": [6.0], "torch-c": [9.0]}))
    ['run', 'torch-a', 'torch-b']
    """
    best = min((known[0] for name, known in seconds.items() if name not in OURS), default=0.0)
    return {
        name: known for name, known in seconds.items() if name in OURS or known[0] <= DROPPED * best
    }


def summary(seconds: Mapping[str, Sequence[float]]) -> dict[str, object]:
    """The best arrangement of each side by its mean, and the ratio of their times."""
    ours = min(seconds.keys() & OURS.keys(), key=lambda name: sum(seconds[name]))
    theirs = min(seconds.keys() - OURS.keys(), key=lambda name: sum(seconds[name]))
    text = ratio_with_interval(ratio(seconds[theirs], seconds[ours]))
    return {"ours": ours, "theirs": theirs, "ratio": text, "seconds": seconds}


def main() -> None:
    """Measure, and print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3, help="at least 2")
    parser.add_argument(
        "--variants", default="*", metavar="PATTERN", help="of PyTorch, such as *-eager-*"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="result as JSON")
    arguments = parser.parse_args()
    rules = arguments.seeds, arguments.epochs

    def notify(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    paths = [ROOT / "experiments" / f"{name}.yaml" for name in NETWORKS]
    overrides = ["dataset.name=mnist_5k", "dataset.splits=null", "dataset.offline=null"]
    loaded = session.load_all(paths, overrides, None)
    tasks = [session.make_task(each, None, notify) for each in loaded]
    arrangements: dict[str, Callable[[], float]] = {}
    for name, options in OURS.items():
        arrangements[name] = partial(run_seconds, options, *rules)
    for name, variants in torch_arrangements(arguments.variants).items():
        arrangements[name] = partial(torch_seconds, tasks, variants, *rules)
    result = summary(measure(arrangements, arguments.rounds, notify))
    text = json.dumps({"seeds": rules[0], "epochs": rules[1], **result}, indent=2)
    sys.stdout.write(f"{text}\n")
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
