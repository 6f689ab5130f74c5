"""Measure the project's performance targets: `make bench`.

Throughput: the shipped networks against all frameworks, interleaved, in one run (`cnnbench bench`).
Start: real runs in fresh processes, with an empty cache and again with a warm one; compile time,
first step and memory are read from their `run.json`. Growth: time of an epoch on all images vs. ten
on a tenth, interleaved. Random: untuned networks (`random_specs`) against PyTorch; slower ones are
listed. Zoo, only if named: well-known architectures (`zoo_networks`) against PyTorch. Results go to
benchmarks/results as JSON and Markdown. Compare within a run only.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks import random_specs, zoo_networks
from benchmarks.targets import Check, Target, checks_rows
from cnnbench.bench import report as bench_report
from cnnbench.bench import session
from cnnbench.bench.frameworks.interface import TorchSettings
from cnnbench.bench.measurements import Benchmark
from cnnbench.bench.scheduler import Settings

ROOT = Path(__file__).parent.parent
NETWORKS = ("standard", "modified", "autoencoder")
FAMILIES = ("torch", "keras", "flax")
BY_DEFAULT = ("throughput", "start", "growth", "random")
SECTIONS = (*BY_DEFAULT, "zoo")
GIB = 2**30
RANDOM_BUDGET_S = 30.0  # of training per random network; compilation takes longer
RANDOM_SHARE, RANDOM_MEDIAN = 1.0, 1.4
ZOO_TARGET = 1.2
TORCH_TARGETS: Mapping[str, float] = {"standard": 2.2, "modified": 2.2, "autoencoder": 4.4}
DEFAULT_TARGETS: Mapping[str, float] = {"standard": 2.0, "modified": 1.7, "autoencoder": 3.0}
TURNS = 5  # seeds of the runs whose times are compared
FULL = 50_000  # training images of the shipped experiments


def main() -> None:
    """Run the requested sections and print the targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(BY_DEFAULT), metavar="SECTION,...")
    parser.add_argument("--budget", type=float, default=150, help="seconds of training per network")
    parser.add_argument("--rounds", type=int, default=7, help="maximum number of timed rounds")
    parser.add_argument("--variants", default="*", metavar="PATTERN,...", help="of the frameworks")
    parser.add_argument("--dataset", default="mnist_5k")
    parser.add_argument("--data-dir", type=Path, help="with all of MNIST, for growth and memory")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    console, errors = Console(), Console(stderr=True, highlight=False)
    wanted = sections(parser, arguments.only)
    session.make_folder(arguments.output)
    record = Record(arguments.output)
    if "throughput" in wanted:
        for each in throughput(arguments, errors.print):
            record.add(speed_checks(each), each)
    if "start" in wanted:
        for name in NETWORKS:
            record.add(start_checks(name, errors.print))
    if "growth" in wanted:
        record.add(growth_checks(arguments.data_dir))
    if "random" in wanted:
        untuned: dict[str, Benchmark | None] = {}
        rules = Settings(arguments.rounds, RANDOM_BUDGET_S)
        for name, found in random_specs.race(
            random_specs.COUNT, rules, errors.print, arguments.variants
        ):
            untuned[name] = found
            record.add([], *([found] if found else []))
        record.add(random_checks(untuned))
    if "zoo" in wanted:
        rules = Settings(arguments.rounds, arguments.budget)
        for name, found in zoo_networks.race(rules, errors.print, arguments.variants):
            record.add([zoo_check(name, found)], *([found] if found else []))
    if record.benchmarks:
        console.print(bench_report.terminal_table(record.report))
    console.print(targets_markdown(record.checks), markup=False, highlight=False)


@dataclass
class Record:
    """Results so far, written after each part, since the next one may fail."""

    output: Path
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    checks: list[Check] = field(default_factory=list)
    benchmarks: list[Benchmark] = field(default_factory=list)

    def add(self, checks: Sequence[Check], *benchmarks: Benchmark) -> None:
        """Add results and write them."""
        self.checks += checks
        self.benchmarks += benchmarks
        if self.benchmarks:
            session.write_report(self.report, self.output)
        write_checks(self.output / f"bars-{self.started_at:%Y%m%dT%H%M%SZ}", self.checks)

    @property
    def report(self) -> bench_report.Report:
        """Report on all networks."""
        command = ["make", "bench"]
        return session.make_report(self.benchmarks, FAMILIES, command, self.started_at)


def sections(parser: argparse.ArgumentParser, text: str) -> list[str]:
    """The requested sections; unknown names are rejected."""
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in SECTIONS]:
        known = ", ".join(SECTIONS)
        parser.error(f"--only: unknown section '{unknown[0]}'; choose from {known}.")
    return names


def throughput(arguments: argparse.Namespace, notify: Any) -> Iterator[Benchmark]:
    """Measure the shipped networks against all frameworks."""
    paths = [ROOT / "experiments" / f"{name}.yaml" for name in NETWORKS]
    overrides = [f"dataset.name={arguments.dataset}", "dataset.splits=null", "dataset.offline=null"]
    settings = Settings(arguments.rounds, arguments.budget)
    for loaded in session.load_all(paths, overrides, arguments.data_dir):
        task = session.make_task(loaded, arguments.data_dir, notify)
        yield session.measure(task, FAMILIES, settings, notify, arguments.variants)


def speed_checks(benchmark: Benchmark) -> list[Check]:
    """Throughput against PyTorch, tuned and with default settings, plain Flax and Keras on JAX."""
    name = benchmark.name
    tuned, default = TORCH_TARGETS[name], DEFAULT_TARGETS[name]
    as_it_comes = benchmark.best("torch", {TorchSettings.DEFAULT})
    pairs = [
        (Target(f"{name}: tuned PyTorch / ours", tuned, "x", True), benchmark.best("torch")),
        (Target(f"{name}: default PyTorch / ours", default, "x", True), as_it_comes),
        (Target(f"{name}: plain Flax NNX / ours", 8.0, "x", True), benchmark.find("flax")),
        (Target(f"{name}: Keras (JAX) / ours", 8.0, "x", True), benchmark.find("keras-jax")),
    ]
    checks = []
    for target, peer in pairs:
        ratio = benchmark.ratio(peer)
        note = f"{peer.variant} {bench_report.ratio_with_interval(ratio)}" if peer and ratio else ""
        checks.append(Check(target, ratio.value if ratio else None, note))
    return checks


def random_checks(results: Mapping[str, Benchmark | None]) -> list[Check]:
    """Fraction of random networks no slower than tuned PyTorch, and the median of their ratios."""
    ratios = random_specs.torch_ratios(results)
    lost = random_specs.slower(ratios)
    share = Target("random networks no slower than tuned PyTorch", RANDOM_SHARE, "", True)
    middle = Target("random networks: tuned PyTorch / ours, median", RANDOM_MEDIAN, "x", True)
    note = f"slower: {', '.join(lost) or 'none'}"
    values = [0.0 if ratio is None else ratio.value for ratio in ratios.values()]
    return [Check(share, 1 - len(lost) / len(results), note), Check(middle, median(values))]


def zoo_check(name: str, benchmark: Benchmark | None) -> Check:
    """Throughput on a well-known architecture against the fastest PyTorch variant."""
    target = Target(f"{name}: tuned PyTorch / ours", ZOO_TARGET, "x", True)
    best = benchmark.best("torch") if benchmark else None
    ratio = benchmark.ratio(best) if benchmark else None
    note = f"{best.variant} {bench_report.ratio_with_interval(ratio)}" if best and ratio else ""
    return Check(target, ratio.value if ratio else None, note)


def run_once(
    paths: Sequence[Path], folder: Path, overrides: Sequence[str] = (), data_dir: Path | None = None
) -> list[dict[str, Any]]:
    """Run experiments in a fresh process; returns each `run.json`, with its log as `epochs`."""
    command = [sys.executable, "-m", "cnnbench", "run", *map(str, paths), "--quiet"]
    command += ["--results-dir", str(folder / "results"), *overrides]
    command += ["--data-dir", str(data_dir)] if data_dir else []
    env = os.environ | {"CNNBENCH_CACHE_DIR": str(folder / "cache")}
    before = set(folder.glob("results/*/*"))
    subprocess.run(command, check=True, cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
    made = {run.parent.name: run for run in set(folder.glob("results/*/*")) - before}
    return [_record(made[path.stem]) for path in paths]


def _record(run: Path) -> dict[str, Any]:
    lines = (run / "epochs.jsonl").read_text().splitlines()
    record: dict[str, Any] = json.loads((run / "run.json").read_text())
    return record | {"epochs": [json.loads(line) for line in lines]}


def start_checks(name: str, notify: Any) -> list[Check]:
    """Compile time from scratch and from the cache on disk, and the time to the first step."""
    notify(f"{name}: cold start, then warm start")
    small = ["--dataset", "mnist_5k", "--epochs", "1"]
    with tempfile.TemporaryDirectory() as folder:
        paths = [ROOT / "experiments" / f"{name}.yaml"]
        cold, warm = (run_once(paths, Path(folder), small)[0] for _ in range(2))
    assert (cold["engine"]["compile_cache"], warm["engine"]["compile_cache"]) == ("cold", "warm")
    return [
        Check(Target(f"{name}: compile, cold", 6.0, "s"), cold["timing"]["compile_s"]),
        Check(Target(f"{name}: compile, cached", 2.0, "s"), warm["timing"]["compile_s"]),
        Check(Target(f"{name}: first step, cached", 5.0, "s"), warm["engine"]["first_step_s"]),
    ]


def growth_checks(data_dir: Path | None) -> list[Check]:
    """Time of an epoch on ten times the images, and peak memory of a run on all of MNIST."""
    grown = Target("standard: epoch on 10x the images / 10 epochs", 1.05, "x")
    memory = Target("peak memory on all of MNIST", 1.5, "GiB")
    if data_dir is None:
        note = "needs --data-dir with all of MNIST"
        return [Check(grown, None, note), Check(memory, None, note)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = run_once(growth_experiments(folder), folder, ["--seeds", str(TURNS)], data_dir)
        deep = run_once(
            [ROOT / "experiments" / "autoencoder.yaml"], folder, ["--epochs", "1"], data_dir
        )
    tenth, whole = ([_training_seconds(run, seed) for seed in range(TURNS)] for run in runs)
    ratios = [large / small for large, small in zip(whole, tenth, strict=True)]
    peaks = [run["engine"]["peak_memory_bytes"] / GIB for run in (*runs, *deep)]
    return [Check(grown, median(ratios)), Check(memory, max(peaks))]


def growth_experiments(folder: Path) -> list[Path]:
    """Experiment files for 10 epochs of a tenth of the images and for one epoch of all."""
    (folder / "standard.yaml").write_bytes((ROOT / "experiments" / "standard.yaml").read_bytes())
    for name, images, epochs in (("tenth", FULL // 10, 10), ("whole", FULL, 1)):
        (folder / f"{name}.yaml").write_text(
            f"extends: standard.yaml\nname: {name}\n"
            f"dataset: {{train_examples: {images}}}\ntrain: {{epochs: {epochs}}}\n"
        )
    return [folder / "tenth.yaml", folder / "whole.yaml"]


def _training_seconds(run: Mapping[str, Any], seed: int) -> float:
    """Total seconds of training of a seed."""
    return sum(float(epoch["train_s"]) for epoch in run["epochs"] if epoch["seed"] == seed)


def targets_markdown(checks: Sequence[Check]) -> str:
    """The targets as a Markdown table."""
    headers = ["Benchmark", "Target", "Measured", "", "Note"]
    return bench_report.markdown_table(headers, checks_rows(checks))


def write_checks(stem: Path, checks: Sequence[Check]) -> None:
    """Write the targets as JSON and Markdown."""
    content = [
        {"bar": c.target.name, "limit": c.target.limit, "measured": c.measured, "holds": c.holds}
        for c in checks
    ]
    stem.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")
    stem.with_suffix(".md").write_text(targets_markdown(checks))


if __name__ == "__main__":
    main()
